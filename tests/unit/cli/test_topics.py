"""The list of topics: what is needed, what is there."""

import asyncio
from typing import Any

from cos2p.log.topics import CATALOGUE
from cos2p_cli.topics import TopicRow, rows


def listed(logged: Any) -> dict[str, TopicRow]:
    return {r.name: r for r in asyncio.run(rows(logged.bus, "t"))}


def test_missing_topics_are_listed_as_missing(logged: Any) -> None:
    found = listed(logged)

    assert {"missing"} == {r.state for r in found.values()}
    assert len(CATALOGUE) == len(found)


def test_records_and_partitions_of_a_run_are_counted(logged: Any) -> None:
    asyncio.run(logged.whole())

    found = listed(logged)

    assert {"ok"} == {r.state for r in found.values()}
    assert (4, 1) == (found["t-updates"].needed, found["t-fleet"].needed)
    # the run's request, two hellos, eight reports, four evaluations
    assert 15 == found["t-fleet"].record_count


def test_bytes_of_blobs_come_from_the_records_that_refer_to_them(logged: Any) -> None:
    asyncio.run(logged.whole())

    found = listed(logged)

    # Eight reports and the checkpoint of version 0 refer to blobs of ten bytes. So do eight
    # dispatches, each to a blob of its own.
    assert (90, 80) == (found["t-updates"].byte_count, found["t-submodels"].byte_count)


def test_a_topic_that_lost_its_start_says_so(logged: Any) -> None:
    asyncio.run(logged.whole())
    logged.bus.expire("t-fleet", 0, 3)

    assert 3 == listed(logged)["t-fleet"].first_offset
