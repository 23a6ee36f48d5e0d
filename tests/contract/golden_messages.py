"""One example of every message, all fields set, and the bytes that each version of it has had.

    python tests/contract/golden_messages.py     writes the files that are missing, changes none

golden/NAME/vN.msgpack holds the body as version N wrote it. A message that changes gets a new
VERSION, a new example here, an upcast in the codec, and a new file; the old files stay.
"""

import sys
from pathlib import Path

from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.messages import (
    BlobRef,
    DeviceProfile,
    LeftOut,
    Message,
    Outcome,
    Plan,
)
from cos2p.model.unit_wire import UnitColumns, UnitScores
from cos2p.run_config import RoundConfig, RunConfig

FOLDER = Path(__file__).resolve().parent / "golden"
TASK = "cos2p_worker.tasks.digits:task"

SCORES = UnitScores(classes=2, counts=(3, 5), sums=bytes(16))
BLOB = BlobRef(
    topic="cos2p-updates",
    partition=3,
    first_offset=100,
    last_offset=107,
    chunk_count=4,
    byte_count=3_000_000,
    digest=bytes(range(32)),
    blob_id="p000007.1700000000000",
)
PLAN = Plan(
    plan_id="p000007",
    worker_id="worker-3",
    incarnation=1_700_000_000_000,
    base_version=12,
    trained=(0, 2, 3, 500),
    frozen=(1,),
    local_steps=10,
    batch_size=32,
    learning_rate=2e-3,
    progress=0.25,
    seed=2**61 + 1,
    deadline_s=12.5,
    peak_bytes=123_456_789,
    group=5,
)
UNITS = UnitColumns(
    name=("stem", "block0.core", "block0.head.0"),
    kind=("core", "core", "head"),
    block=(-1, 0, 0),
    size=(1000, 64, 4096),
    flops=(2000, 128, 8192),
    activations=(10, 20, 30),
)
CONFIG = RunConfig(seed=7, rounds=RoundConfig(versions=50), partitions=8)
RUN = {"run_id": "run-1"}
DECISION = {**RUN, "epoch": 2, "fleet_offset": 1234, "at_s": 1_790_000_000.5}
DEVICE = {**RUN, "worker_id": "worker-3", "incarnation": 1_700_000_000_000}
MADE = {**RUN, "decisions_offset": 99}
ENDED = {**DECISION, "plan_id": "p000007", "worker_id": "worker-3"}
BEGUN = {"config": CONFIG, "task": TASK, "units": UNITS, "checkpoint": BLOB}


def _fleet() -> tuple[Message, ...]:
    profile = DeviceProfile(
        device_class="small",
        accelerator="cuda",
        memory_bytes=2**31,
        flops_per_s=1.5e9,
        bytes_per_s=2.5e7,
        cpus=1.5,
    )
    return (
        m.Hello.model_validate(
            {
                **DEVICE,
                "profile": profile,
                "sample_count": 140,
                "label_counts": (10, 0, 130),
                "units_digest": bytes(range(32)),
                "protocol": 3,
            }
        ),
        m.Heartbeat.model_validate(
            {**DEVICE, "state": "training", "plan_id": "p000007", "steps_done": 3}
        ),
        m.Report.model_validate(
            {
                **DEVICE,
                **{"plan_id": "p000007", "status": "done", "blob": BLOB, "sample_count": 140},
                **{"steps_done": 10, "idle_s": 0.25, "fetch_s": 0.5, "train_s": 4.0},
                **{"throttle_s": 3.0, "upload_s": 0.125, "peak_bytes": 120_000_000},
                **{"bytes_down": 3_000_000, "bytes_found": 700, "bytes_up": 2_900_000},
                **{"loss_first": 2.25, "loss_last": 1.5, "scores": SCORES, "detail": "as planned"},
            }
        ),
        m.Goodbye.model_validate({**DEVICE, "reason": "SIGTERM"}),
        m.Evaluated.model_validate(
            {
                **{**RUN, "evaluator_id": "evaluator", "version": 12, "sample_count": 360},
                **{"loss": 0.75, "accuracy": 0.875, "raw_accuracy": 0.85},
                **{"plain_accuracy": 0.8, "scaled_accuracy": 0.85},
                **{"exit_accuracies": (0.5, 0.75), "mean_accuracy": 0.88},
            }
        ),
        m.RunRequested.model_validate({**RUN, **BEGUN}),
        m.AdmitRequested.model_validate({**RUN, "worker_id": "worker-3"}),
        m.StopRequested.model_validate(
            {**RUN, "reason": "enough, says the operator: \u00e9\u4e2d"}
        ),
    )


def _decisions() -> tuple[Message, ...]:
    return (
        m.EpochStarted.model_validate({**DECISION, "planner_id": "planner-1"}),
        m.RunStarted.model_validate({**DECISION, **BEGUN}),
        m.PlanIssued.model_validate({**DECISION, "plan": PLAN}),
        m.PlanCancelled.model_validate({**ENDED, "outcome": Outcome.EXPIRED, "reason": "silent"}),
        m.UpdateAdmitted.model_validate(
            {
                **ENDED,
                **{"blob": BLOB, "weight": 11.5, "scale": 0.5, "staleness": 2, "steps_done": 10},
            }
        ),
        m.UpdateRefused.model_validate(
            {**ENDED, "outcome": Outcome.STALE, "reason": "7 versions old, at most 6"}
        ),
        m.DeviceExcluded.model_validate(
            {**DECISION, "worker_id": "worker-3", "reason": "3 of its updates failed checks"}
        ),
        m.DeviceAdmitted.model_validate({**DECISION, "worker_id": "worker-3"}),
        m.RoundClosed.model_validate(
            {
                **{**DECISION, "version": 13, "reason": "deadline", "update_count": 4},
                **{"waited_s": 12.5, "coverage_min": 3, "coverage_bound": 4.5},
                **{"coverage_planned": 4, "step": 0.5, "staleness_mean": 0.75, "devices_bound": 5},
            }
        ),
        m.RunEnded.model_validate(
            {**DECISION, "version": 50, "reason": "target", "detail": "50 versions"}
        ),
    )


def _models() -> tuple[Message, ...]:
    left_out = LeftOut(plan_id="p000007", worker_id="worker-3", unit=2, reason="not_finite")
    return (
        m.RunOpened.model_validate(
            {
                **MADE,
                "config": CONFIG,
                "task": TASK,
                "units_digest": bytes(range(32)),
                "protocol": 3,
            }
        ),
        m.Dispatched.model_validate(
            {
                **{**MADE, "plan": PLAN, "shard": 1, "shard_count": 2},
                **{"blobs": ({"blob": BLOB, "units": b"\x0b"},)},
            }
        ),
        m.VersionPublished.model_validate(
            {
                **{**MADE, "version": 13, "shard": 1, "shard_count": 2},
                **{"digest": bytes(range(32)), "unit_digests": bytes(range(24))},
                **{"unit_norms": bytes(range(12)), "unit_shares": bytes(range(12))},
                **{"delta_square": 0.75, "open_plans": (70, 81)},
                **{"left_out": (left_out,), "merged_count": 4, "step_norm": 0.5},
                **{"model_norm": 25.5, "checkpoint": BLOB},
            }
        ),
        m.RunFinished.model_validate({**MADE, "version": 50, "reason": "target"}),
        m.SnapshotPart.model_validate(
            {
                **{**RUN, "of": "planner", "number": 7, "part": 1, "part_count": 3},
                **{"protocol": 1, "digest": bytes(range(32)), "body": b"state"},
            }
        ),
        m.DeadLetter.model_validate(
            {
                **{**RUN, "topic": "cos2p-fleet", "partition": 0, "offset": 17},
                **{"reason": "no msgpack", "reader": "planner", "value_head": b"\xc1\x00"},
            }
        ),
    )


EXAMPLES: dict[str, Message] = {
    type(message).__name__: message for message in (*_fleet(), *_decisions(), *_models())
}


def golden(name: str, version: int) -> Path:
    """Where the bytes of a message's version lie."""
    return FOLDER / name / f"v{version}.msgpack"


def main() -> None:
    """Write what is missing."""
    for name, message in EXAMPLES.items():
        path = golden(name, message.VERSION)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(codec.encode(message).value))
            sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
