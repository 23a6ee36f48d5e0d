"""What a service shows of itself: counted, folded, and read back as Prometheus would."""

import asyncio
from typing import Any

import aiohttp
import pytest
from hand_run import CORE0, HEAD0, HEAD1, Writer
from prometheus_client.parser import text_string_to_metric_families

from cos2p.clock import LoopClock
from cos2p.errors import BusUnreachableError, SettingsError, TopicMissingError
from cos2p.log import messages as m
from cos2p.log.bus import NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.messages import Outcome
from cos2p.log.topics import specs
from cos2p.monitoring.metrics import METRICS
from cos2p.monitoring.monitor import Monitor
from cos2p.monitoring.server import exposition, served

Found = dict[tuple[str, tuple[str, ...]], float]


class SetClock:
    """A clock that shows what it is set to."""

    def __init__(self, now: float) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class DeadBus(MemoryBus):
    """A bus whose broker has gone."""

    async def end_offsets(self, topic: str) -> Any:
        raise BusUnreachableError("broker:9092: connection refused")


def monitor_of(writer: Writer, now: float | None = None) -> Monitor:
    clock = SetClock(writer.now if now is None else now)
    monitor = Monitor("planner", "1.2.3", "t", clock)
    monitor.show_history(writer.folded())
    return monitor


def read(monitor: Monitor) -> Found:
    """What Prometheus would read, by name and labels' values in order."""
    text = exposition(monitor.samples()).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def writer() -> Writer:
    return Writer().begin()


def test_a_version_is_shown_with_its_coverage_by_block(writer: Writer) -> None:
    for i, heads in enumerate(((HEAD0, HEAD1), (HEAD0,))):
        writer.admit(writer.plan(f"p{i}", "w", (CORE0, *heads)))
    writer.close(1, coverage_min=0, coverage_bound=1.5, coverage_planned=2, waited_s=4.0)

    found = read(monitor_of(writer))

    assert 1 == found["cos2p_run_version", ("r1",)]
    assert (0, 1.5) == (
        found["cos2p_coverage_updates", ("merged",)],
        found["cos2p_coverage_updates", ("bound",)],
    )
    assert 2 == found["cos2p_coverage_devices", ()]
    assert (1, 0) == (
        found["cos2p_coverage_block_updates", ("0",)],
        found["cos2p_coverage_block_updates", ("1",)],
    )
    assert (4.0, 1) == (found["cos2p_round_seconds", ()], found["cos2p_rounds_total", ("count",)])


def test_coverage_by_block_is_that_of_the_whole_window(writer: Writer) -> None:
    for version in (1, 2, 3):
        writer.admit(writer.plan(f"p{version}", "w", (CORE0, HEAD0, HEAD1)))
        writer.close(version)

    assert 2 == read(monitor_of(writer))["cos2p_coverage_block_updates", ("0",)]


def test_staleness_is_a_histogram_of_merged_updates(writer: Writer) -> None:
    for i, late in enumerate((0, 2, 2, 40)):
        writer.admit(writer.plan(f"p{i}", "w", (CORE0, HEAD0)), staleness=late)

    found = read(monitor_of(writer))

    assert [1, 1, 3, 3, 4] == [
        found["cos2p_staleness_versions_bucket", (bound,)]
        for bound in ("0.0", "1.0", "2.0", "32.0", "+Inf")
    ]
    assert (4, 44) == (
        found["cos2p_staleness_versions_count", ()],
        found["cos2p_staleness_versions_sum", ()],
    )


def test_a_device_is_useless_since_its_last_merged_update(writer: Writer) -> None:
    writer.hello("w1", (5, 5))
    came_s = writer.now
    writer.hello("w2", (5, 5))
    writer.admit(writer.plan("p", "w2", (CORE0, HEAD0)))
    merged_s = writer.now

    found = read(monitor_of(writer, now=merged_s + 3))

    assert 3 == found["cos2p_device_useful_age_seconds", ("small", "w2")]
    assert merged_s + 3 - came_s == found["cos2p_device_useful_age_seconds", ("small", "w1")]


def test_a_device_is_shown_as_gone_when_it_is_silent_too_long(writer: Writer) -> None:
    writer.hello("w1", (5, 5))

    assert 1 == read(monitor_of(writer))["cos2p_device_present", ("small", "w1")]
    gone = monitor_of(writer, now=writer.now + 11)
    assert 0 == read(gone)["cos2p_device_present", ("small", "w1")]


def test_outcomes_and_memory_are_told_by_device(writer: Writer) -> None:
    writer.hello("w1", (5, 5))
    plan = writer.plan("p1", "w1", (CORE0, HEAD0), peak_bytes=7_000)
    writer.append_message(
        m.Report,
        plan_id="p1",
        worker_id="w1",
        incarnation=1,
        status="out_of_memory",
        peak_bytes=9_000,
        train_s=2.5,
    )
    writer.append_message(
        m.UpdateRefused,
        plan_id=plan.plan_id,
        worker_id="w1",
        outcome=Outcome.INVALID,
        reason="out of memory",
    )

    found = read(monitor_of(writer))

    assert 1 == found["cos2p_device_plans_total", ("invalid", "small", "w1")]
    assert (7_000, 9_000) == (
        found["cos2p_device_peak_bytes", ("predicted", "small", "w1")],
        found["cos2p_device_peak_bytes", ("measured", "small", "w1")],
    )
    assert 2.5 == found["cos2p_device_seconds_total", ("small", "train", "w1")]
    assert 0 == found["cos2p_plans_open", ()]


def test_the_stall_ratio_grows_until_a_version_closes(writer: Writer) -> None:
    patience_s = writer.config.liveness.patience_s
    began_s = writer.now

    waiting = read(monitor_of(writer, now=began_s + patience_s / 2))
    writer.close(1)
    closed = read(monitor_of(writer))

    assert 0.5 == waiting["cos2p_run_stall_ratio", ()]
    assert 0 == closed["cos2p_run_stall_ratio", ()]


def test_before_a_run_a_service_shows_itself_only() -> None:
    found = read(Monitor("worker", "1.2.3", "t", SetClock(0)))

    assert {("cos2p_service_info", ("1.2.3", "worker")), ("cos2p_service_blocked", ("bus",))} == (
        set(found)
    )


def test_bytes_are_counted_by_topic_and_direction() -> None:
    async def body() -> Found:
        clock = LoopClock()
        monitor = Monitor("worker", "1", "t", clock)
        bus = monitor.metered(MemoryBus(clock))
        await bus.create_topics(specs("t", 1))
        await bus.append("t-fleet", 0, [NewRecord(b"12345", key=b"k"), NewRecord(b"1")])
        await bus.read("t-fleet", 0, 1)
        return read(monitor)

    found = asyncio.run(body())

    assert (7, 2) == (
        found["cos2p_bus_bytes_total", ("fleet", "out")],
        found["cos2p_bus_records_total", ("fleet", "out")],
    )
    assert 1 == found["cos2p_bus_bytes_total", ("fleet", "in")]


def test_a_lost_bus_blocks_until_a_call_succeeds() -> None:
    async def body() -> tuple[dict[str, str], dict[str, str], Found]:
        clock = LoopClock()
        monitor = Monitor("worker", "1", "t", clock)
        bus = monitor.metered(DeadBus(clock))
        with pytest.raises(BusUnreachableError):
            await bus.end_offsets("t-fleet")
        lost, shown = monitor.blockers, read(monitor)
        await bus.create_topics(specs("t", 1))
        return lost, monitor.blockers, shown

    lost, found_again, shown = asyncio.run(body())

    assert {"bus": "broker:9092: connection refused"} == lost
    assert {} == found_again
    assert 1 == shown["cos2p_service_blocked", ("bus",)]
    assert 1 == shown["cos2p_bus_errors_total", ("BusUnreachableError",)]


def test_a_service_is_ready_once_the_bus_has_answered_whatever_it_said() -> None:
    async def body() -> tuple[dict[str, str], dict[str, str]]:
        clock = LoopClock()
        monitor = Monitor("worker", "1", "t", clock)
        bus = monitor.metered(MemoryBus(clock))
        before = monitor.blockers
        with pytest.raises(TopicMissingError):
            await bus.end_offsets("t-fleet")
        return before, monitor.blockers

    before, after = asyncio.run(body())

    assert {"bus": "it has not answered yet"} == before
    assert {} == after


def test_no_two_metrics_have_one_name_and_counters_end_in_total() -> None:
    assert len(METRICS) == len({metric.shown for metric in METRICS})
    assert {m.kind == "counter" for m in METRICS if m.shown.endswith("_total")} == {True}


def asked(monitor: Monitor, *paths: str) -> list[tuple[int, str]]:
    """Status and text of each path, over HTTP."""

    async def body() -> list[tuple[int, str]]:
        async with (
            served(monitor, "127.0.0.1", 0) as address,
            aiohttp.ClientSession(f"http://{address}") as session,
        ):
            answers = []
            for path in paths:
                async with session.get(path) as answer:
                    answers.append((answer.status, await answer.text()))
            return answers

    return asyncio.run(body())


def test_a_service_that_waits_is_alive_and_ready(writer: Writer) -> None:
    answers = asked(monitor_of(writer), "/healthz", "/readyz")

    assert [(200, "ok\n"), (200, "ok\n")] == answers


def test_a_blocked_service_is_alive_but_not_ready_and_says_why(writer: Writer) -> None:
    monitor = monitor_of(writer)
    monitor.blocked("run", "no version after 3: waiting for w1")

    alive, ready = asked(monitor, "/healthz", "/readyz")

    assert 200 == alive[0]
    assert (503, "run: no version after 3: waiting for w1\n") == ready


def test_the_metrics_page_is_what_prometheus_reads(writer: Writer) -> None:
    ((status, text),) = asked(monitor_of(writer), "/metrics")

    names = {family.name for family in text_string_to_metric_families(text)}
    assert 200 == status
    assert {"cos2p_service_info", "cos2p_plans_open", "cos2p_staleness_versions"} <= names


def test_an_address_that_is_taken_is_told(writer: Writer) -> None:
    async def body() -> None:
        async with served(monitor_of(writer), "127.0.0.1", 0) as address:
            port = int(address.rpartition(":")[2])
            async with served(monitor_of(writer), "127.0.0.1", port):
                pass

    with pytest.raises(SettingsError, match="COS2P_METRICS_PORT: can't listen on 127"):
        asyncio.run(body())
