"""Where units lie: each is written once, and again only when it changed or its record grows old."""

from cos2p.log.messages import BlobRef, UnitBlob
from cos2p.model.unit_wire import pack_units, unpack_units
from cos2p_aggregator.unit_places import BLOBS_MAX, LIFETIME_S, UnitPlaces

A, B = b"a" * 8, b"b" * 8


def blob(*units: int) -> UnitBlob:
    ref = BlobRef(
        topic="t-submodels",
        partition=0,
        first_offset=0,
        last_offset=0,
        chunk_count=1,
        byte_count=1,
        digest=bytes(32),
        blob_id="b",
    )
    return UnitBlob(blob=ref, units=pack_units(units))


def write(places: UnitPlaces, digests: dict[int, bytes], now: float = 0.0) -> tuple[int, ...]:
    """Write what is missing for a plan, and return it."""
    missing = places.missing(digests, now)
    if missing:
        places.note(blob(*missing), {u: digests[u] for u in missing}, now)
    return missing


def test_a_unit_that_did_not_change_is_not_written_again() -> None:
    places = UnitPlaces()

    assert (0, 1) == write(places, {0: A, 1: A})
    assert (2,) == write(places, {0: A, 1: A, 2: A})
    assert () == write(places, {1: A, 2: A})


def test_a_unit_that_changed_is_written_again() -> None:
    places = UnitPlaces()
    write(places, {0: A, 1: A})

    assert (1,) == write(places, {0: A, 1: B})


def test_a_plan_is_given_the_blobs_that_it_needs_newest_first() -> None:
    places = UnitPlaces()
    write(places, {0: A, 1: A})
    write(places, {2: A})
    write(places, {1: B, 3: A})

    units = [unpack_units(found.units) for found in places.blobs((0, 1))]

    assert [(1, 3), (0, 1)] == units


def test_a_unit_is_written_again_before_retention_can_remove_it() -> None:
    places = UnitPlaces()
    write(places, {0: A})

    assert () == write(places, {0: A}, LIFETIME_S)
    assert (0,) == write(places, {0: A}, LIFETIME_S + 1)


def test_a_plan_never_needs_more_blobs_than_a_record_can_name() -> None:
    places = UnitPlaces()
    many = 3 * BLOBS_MAX
    for unit in range(many):
        write(places, {unit: A})
    everything = dict.fromkeys(range(many), A)

    assert tuple(range(many - BLOBS_MAX + 1)) == write(places, everything)
    assert BLOBS_MAX == len(places.blobs(tuple(everything)))
    assert () == write(places, everything)


def test_a_first_plan_finds_nothing_written() -> None:
    assert (0, 5) == UnitPlaces().missing({0: A, 5: A}, 0.0)
