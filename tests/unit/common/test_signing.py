"""Signed records: what fits is accepted, everything else is refused by name."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cos2p.clock import SystemClock
from cos2p.errors import SettingsError, SignatureError
from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.bus import NewRecord, Record
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.mailbox import Mailbox, Outbox, Refusal
from cos2p.log.messages import Message
from cos2p.log.topics import DEAD_LETTERS, FLEET, specs
from cos2p.service.open_bus import open_bus
from cos2p.settings import BusSettings
from cos2p.signing.envelope import SEQUENCE_HEADER, SIGNATURE_HEADER
from cos2p.signing.keys import (
    Register,
    SignerRole,
    new_key,
    parse_register,
    private_key,
    read_register,
    register_line,
)
from cos2p.signing.signer import SigningBus
from cos2p.signing.verifier import Verifier

TOPIC = "t-fleet"


class Still:
    """A clock that stands still."""

    def __init__(self, time_s: float = 1000.0) -> None:
        self.time_s = time_s

    def now(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


class Site:
    """Keys of some devices, their register, and a log."""

    def __init__(self) -> None:
        self.keys: dict[str, Ed25519PrivateKey] = {}
        self.lines: list[str] = []
        self.bus = MemoryBus(SystemClock())
        self.admit("worker", "orin-1")
        self.admit("worker", "nano-1")
        self.admit("evaluator", "judge")
        self.admit("operator", "me")

    def admit(self, role: SignerRole, name: str) -> None:
        self.keys[name] = Ed25519PrivateKey.generate()
        self.lines.append(register_line(role, name, self.keys[name]))

    def verifier(self) -> Verifier:
        return Verifier(parse_register("\n".join(self.lines), "register").get)

    def signing(self, name: str, clock: Still | None = None) -> SigningBus:
        return SigningBus(self.bus, {TOPIC}, self.keys[name], clock or Still())

    def fleet_letters(
        self, name: str, *messages: Message, clock: Still | None = None
    ) -> list[Record]:
        """The records of these messages, signed by this name."""

        async def body() -> list[Record]:
            await self.bus.create_topics(specs("t", 1))
            end = (await self.bus.end_offsets(TOPIC))[0].next
            await Outbox(self.signing(name, clock), "t", FLEET).send(*messages)
            return await self.bus.read(TOPIC, 0, end)

        return asyncio.run(body())


@pytest.fixture
def site() -> Site:
    return Site()


def goodbye(worker: str = "orin-1") -> m.Goodbye:
    return m.Goodbye(run_id="r", worker_id=worker, incarnation=1)


def refusal(verifier: Verifier, record: Record) -> str:
    with pytest.raises(SignatureError) as caught:
        verifier(record, codec.decode(record))
    return str(caught.value)


def accept(verifier: Verifier, *records: Record) -> None:
    for record in records:
        verifier(record, codec.decode(record))


def test_what_a_device_signs_is_accepted_in_order(site: Site) -> None:
    accept(site.verifier(), *site.fleet_letters("orin-1", goodbye(), goodbye(), goodbye()))


def test_each_role_says_its_own(site: Site) -> None:
    verifier = site.verifier()
    judged = m.Evaluated(run_id="r", evaluator_id="judge", version=1, sample_count=1, loss=1.0)

    accept(verifier, *site.fleet_letters("judge", judged))
    accept(verifier, *site.fleet_letters("me", m.StopRequested(run_id="r", reason="enough")))


def test_a_record_in_anothers_name_is_refused(site: Site) -> None:
    (record,) = site.fleet_letters("orin-1", goodbye("nano-1"))

    assert "Goodbye of nano-1: sent by orin-1 in another's name" == refusal(site.verifier(), record)


def test_an_unsigned_record_is_refused(site: Site) -> None:
    plain = codec.encode(goodbye())
    record = Record(TOPIC, 0, 0, 0.0, plain.key, bytes(plain.value), plain.headers)

    assert "Goodbye of orin-1: not signed" == refusal(site.verifier(), record)


def test_a_replayed_record_is_refused(site: Site) -> None:
    verifier = site.verifier()
    first, second = site.fleet_letters("orin-1", goodbye(), goodbye())
    accept(verifier, first, second)

    assert "replayed" in refusal(verifier, first)
    assert "replayed" in refusal(verifier, second)


def test_a_worker_may_not_stop_the_run(site: Site) -> None:
    (record,) = site.fleet_letters("orin-1", m.StopRequested(run_id="r", reason="sabotage"))

    assert "orin-1 is a worker, which must not send that" in refusal(site.verifier(), record)


def test_an_unregistered_key_is_refused_by_its_id(site: Site) -> None:
    site.keys["orin-1"] = Ed25519PrivateKey.generate()
    (record,) = site.fleet_letters("orin-1", goodbye())

    assert "is not registered" in refusal(site.verifier(), record)


CHANGES: dict[str, Callable[[Record], Record]] = {
    "value": lambda r: replace(r, value=bytes(codec.encode(goodbye("nano-1")).value)),
    "key": lambda r: replace(r, key=b"nano-1"),
    "topic": lambda r: replace(r, topic="other-fleet"),
    "number": lambda r: replace(r, headers={**r.headers, SEQUENCE_HEADER: (1 << 62).to_bytes(8)}),
    "version": lambda r: replace(r, headers={**r.headers, codec.VERSION_HEADER: b"01"}),
    "signature": lambda r: replace(r, headers={**r.headers, SIGNATURE_HEADER: bytes(64)}),
    "short signature": lambda r: replace(r, headers={**r.headers, SIGNATURE_HEADER: b"x"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_that_was_changed_is_refused(site: Site, change: str) -> None:
    (record,) = site.fleet_letters("orin-1", goodbye())

    assert "does not match the record" in refusal(site.verifier(), CHANGES[change](record))


def test_a_number_of_another_length_is_refused(site: Site) -> None:
    (record,) = site.fleet_letters("orin-1", goodbye())
    odd = replace(record, headers={**record.headers, SEQUENCE_HEADER: b"\x01"})

    assert "its sequence number is not a number" in refusal(site.verifier(), odd)


def test_a_refused_record_leaves_the_next_one_acceptable(site: Site) -> None:
    verifier = site.verifier()
    (record,) = site.fleet_letters("orin-1", goodbye())
    forged = CHANGES["number"](record)

    refusal(verifier, forged)
    accept(verifier, record)


def test_a_restarted_device_goes_on_above_its_former_numbers(site: Site) -> None:
    verifier = site.verifier()

    accept(verifier, *site.fleet_letters("orin-1", goodbye(), goodbye(), clock=Still(1000.0)))
    accept(verifier, *site.fleet_letters("orin-1", goodbye(), clock=Still(1000.1)))


def test_a_clock_that_went_back_is_named(site: Site) -> None:
    verifier = site.verifier()
    accept(verifier, *site.fleet_letters("orin-1", goodbye(), clock=Still(1000.0)))
    (late,) = site.fleet_letters("orin-1", goodbye(), clock=Still(900.0))

    assert "or the clock of orin-1 went back" in refusal(verifier, late)


def test_the_old_key_and_the_new_one_serve_the_same_name(site: Site) -> None:
    (old,) = site.fleet_letters("orin-1", goodbye(), clock=Still(1000.0))
    site.admit("worker", "orin-1")
    (new,) = site.fleet_letters("orin-1", goodbye(), clock=Still(1001.0))

    accept(site.verifier(), old, new)


def test_other_topics_pass_unsigned(site: Site) -> None:
    async def body() -> Record:
        await site.bus.create_topics(specs("t", 1))
        await site.signing("orin-1").append("t-updates", 0, [NewRecord(b"chunk")])
        return (await site.bus.read("t-updates", 0, 0))[0]

    assert {} == dict(asyncio.run(body()).headers)


def test_records_said_at_once_keep_the_order_of_their_numbers(site: Site) -> None:
    class Slow(MemoryBus):
        """Keeps the first append waiting for longer than the others."""

        pause_s = 0.02

        async def append(self, topic: str, partition: int, records: Any) -> list[int]:
            wait_s, self.pause_s = self.pause_s, 0.0
            await asyncio.sleep(wait_s)
            return await super().append(topic, partition, records)

    async def body() -> list[Record]:
        bus = Slow(SystemClock())
        await bus.create_topics(specs("t", 1))
        outbox = Outbox(SigningBus(bus, {TOPIC}, site.keys["orin-1"], Still()), "t", FLEET)
        await asyncio.gather(*(outbox.send(goodbye()) for _ in range(5)))
        return await bus.read(TOPIC, 0, 0)

    accept(site.verifier(), *asyncio.run(body()))


def test_a_mailbox_buries_what_its_check_refuses_and_says_why(site: Site) -> None:
    told: list[Refusal] = []

    async def body() -> tuple[list[Message], m.DeadLetter]:
        await site.bus.create_topics(specs("t", 1))
        await Outbox(site.signing("orin-1"), "t", FLEET).send(goodbye("nano-1"), goodbye("orin-1"))
        box = Mailbox(
            site.bus, "t", FLEET, reader="planner", check=site.verifier(), refused=told.append
        )
        letters = [letter.message for letter in await box.poll()]
        (dead,) = await site.bus.read(DEAD_LETTERS.full_name("t"), 0, 0)
        letter = codec.decode(dead)
        assert isinstance(letter, m.DeadLetter)
        return letters, letter

    letters, dead = asyncio.run(body())

    assert [goodbye("orin-1")] == letters
    assert ["Goodbye of nano-1: sent by orin-1 in another's name"] == [x.reason for x in told]
    assert told[0].reason == dead.reason


def test_a_key_is_kept_for_its_owner_alone_and_never_written_over(tmp_path: Path) -> None:
    file = tmp_path / "orin-1.pem"
    made = new_key(file)

    assert 0o600 == file.stat().st_mode & 0o777
    assert register_line("worker", "a", made) == register_line("worker", "a", private_key(file))
    with pytest.raises(SettingsError, match="a key is never overwritten"):
        new_key(file)


def other_kind() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"secret-text", "no unencrypted private key in PEM form"),
        (b"", "no unencrypted private key in PEM form"),
        (other_kind(), "a key of another kind"),
    ],
    # The last content is drawn in each process: it must not be part of the test's name.
    ids=["other text", "empty", "another kind"],
)
def test_a_file_without_a_key_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes, told: str
) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)

    with pytest.raises(SettingsError, match=told) as caught:
        private_key(file)
    assert "secret-text" not in str(caught.value)


def test_a_missing_key_file_is_named_when_the_bus_is_opened(tmp_path: Path) -> None:
    settings = BusSettings(bus=f"sqlite:{tmp_path}/run", signing_key_file=tmp_path / "none.pem")

    with pytest.raises(SettingsError, match=r"can't read the signing key .*none\.pem"):
        open_bus(settings, SystemClock())


KEY = register_line("worker", "a", Ed25519PrivateKey.from_private_bytes(bytes(32))).split()[2]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("worker a", "line 2: not ROLE NAME KEY"),
        (f"driver a {KEY}", "line 2: 'driver' is not a role"),
        ("worker a AAAA", "line 2: no public key"),
        ("worker a ???", "line 2: no public key"),
        (f"worker a {KEY}\nworker b {KEY}", "line 3: this key is registered on another line"),
    ],
)
def test_a_wrong_line_of_the_register_is_named(line: str, told: str) -> None:
    with pytest.raises(SettingsError, match=f"register, {told}"):
        parse_register(f"# keys of the site\n{line}\n", "register")


def test_a_register_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(b"\xff\xfe")

    with pytest.raises(SettingsError, match=r"can't read the register .*none: No such file"):
        read_register(tmp_path / "none")
    with pytest.raises(SettingsError, match=r"packed is not text in UTF-8"):
        read_register(tmp_path / "packed")


def test_a_register_that_changes_is_read_again(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "register"
    file.write_text(site.lines[0])
    verifier = Verifier(Register(file).find)
    (record,) = site.fleet_letters("nano-1", goodbye("nano-1"))
    assert "is not registered" in refusal(verifier, record)

    file.write_text("\n".join(site.lines))

    accept(verifier, record)


def test_a_key_struck_from_the_register_counts_no_more(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "register"
    file.write_text("\n".join(site.lines))
    verifier = Verifier(Register(file).find)
    first, second = site.fleet_letters("orin-1", goodbye(), goodbye())
    accept(verifier, first)

    file.write_text(site.lines[1])

    assert "is not registered" in refusal(verifier, second)


def test_a_register_that_became_unreadable_keeps_its_keys_and_says_so(
    site: Site, tmp_path: Path
) -> None:
    warnings: list[str] = []
    file = tmp_path / "register"
    file.write_text("\n".join(site.lines))
    verifier = Verifier(Register(file, warnings.append).find)
    first, second = site.fleet_letters("orin-1", goodbye(), goodbye())
    accept(verifier, first)

    file.write_text("worker orin-1")
    accept(verifier, second)

    assert 1 == len(warnings)
    assert "line 1: not ROLE NAME KEY" in warnings[0]
