"""Version 0 and the request that starts a run."""

import asyncio

import numpy as np
import pytest

from cos2p.clock import LoopClock
from cos2p.errors import RunExistsError
from cos2p.log.blobs import read_blob
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.mailbox import Mailbox
from cos2p.log.messages import RunRequested
from cos2p.log.topics import FLEET
from cos2p.model.payload import PayloadReader
from cos2p_worker.initial import initial_values, initialise
from cos2p_worker.task import Task


def test_the_same_seed_gives_the_same_values(task: Task) -> None:
    first, again, other = (initial_values(task, seed) for seed in (3, 3, 4))

    assert all(np.array_equal(first[u], again[u]) for u in first)
    assert not all(np.array_equal(first[u], other[u]) for u in first)


def test_what_is_written_is_the_initial_model_and_the_request_names_it(task: Task) -> None:
    async def scenario() -> None:
        bus = MemoryBus(LoopClock())
        given = await initialise(bus, "t", "mod:TASK", task, task.run, "run-1")

        [letter] = await Mailbox(bus, "t", FLEET, reader="test").poll()
        request = letter.message
        assert isinstance(request, RunRequested)
        assert given == request
        assert ("run-1", "mod:TASK", task.run) == (request.run_id, request.task, request.config)
        assert task.units.digest == request.units.table().digest
        expected = initial_values(task, task.run.seed)
        reader = PayloadReader(task.units, "v0", range(len(task.units)))
        async for chunk in read_blob(bus, request.checkpoint):
            for found in reader.feed(chunk):
                assert found.intact
                assert np.array_equal(expected[found.unit], found.values)
        reader.finish()

    asyncio.run(scenario())


def test_a_second_run_at_the_same_place_is_refused(task: Task) -> None:
    async def scenario() -> None:
        bus = MemoryBus(LoopClock())
        await initialise(bus, "t", "mod:TASK", task, task.run, "run-1")

        with pytest.raises(RunExistsError, match="a run at 't' already"):
            await initialise(bus, "t", "mod:TASK", task, task.run, "run-2")
        await initialise(bus, "u", "mod:TASK", task, task.run, "run-2")

    asyncio.run(scenario())
