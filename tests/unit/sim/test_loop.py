"""Virtual time."""

import asyncio

import pytest

from cos2p_sim.loop import SimulationHangsError, run_virtual


def test_timers_fire_in_order_whatever_they_wait() -> None:
    async def both() -> list[str]:
        seen: list[str] = []

        async def after(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            seen.append(name)

        await asyncio.gather(after(3600, "late"), after(0.001, "soon"), after(60, "mid"))
        return seen

    assert ["soon", "mid", "late"] == run_virtual(both())


def test_a_timeout_fires_on_virtual_time() -> None:
    async def wait() -> None:
        async with asyncio.timeout(1e5):
            await asyncio.sleep(2e5)

    with pytest.raises(TimeoutError):
        run_virtual(wait())


def test_waiting_for_what_can_never_come_is_an_error() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(SimulationHangsError, match="every task waits"):
        run_virtual(wait())


def test_going_round_without_time_passing_is_an_error() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - that is the fault
            await asyncio.sleep(0)

    with pytest.raises(SimulationHangsError, match="the virtual clock does not advance"):
        run_virtual(spin())


def test_work_for_a_thread_costs_no_virtual_time() -> None:
    async def hand_over() -> tuple[int, float]:
        before = asyncio.get_running_loop().time()
        found = await asyncio.to_thread(sum, (1, 2))
        return found, asyncio.get_running_loop().time() - before

    assert (3, 0.0) == run_virtual(hand_over())


def test_what_a_threads_work_raises_is_raised_where_it_is_awaited() -> None:
    async def hand_over() -> int:
        return await asyncio.to_thread(int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        run_virtual(hand_over())
