"""Results of cells that nobody computed: small ones by hand, and a suite like a real one."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cos2p.history.device import Announced
from cos2p.history.state import Span
from cos2p.history.version import VersionRow
from cos2p.log.messages import Outcome
from cos2p_experiments.result import (
    CellDevice,
    CellResult,
    CoverageMap,
    CurvePoint,
    Effort,
    Identity,
)
from cos2p_experiments.study import Missing, Study
from cos2p_experiments.suite import PolicyPart, SettingPart, Suite

SKEWED_LABELS = ((90, 10), (10, 90))
EVEN_LABELS = ((50, 50), (50, 50))


def device(
    worker_id: str = "worker-0",
    device_class: str = "nano",
    budget: float = 0.5,
    peak: int = 800,
    busy_s: float = 60.0,
    labels: tuple[int, ...] = (50, 50),
) -> CellDevice:
    """One device over 100 s."""
    return CellDevice(
        worker_id=worker_id,
        device_class=device_class,
        memory_bytes=1000,
        budget=budget,
        flops_per_s=1e6,
        bytes_per_s=1e6,
        sample_count=sum(labels),
        peak_predicted_bytes=900,
        peak_measured_bytes=peak,
        idle_s=100.0 - busy_s,
        fetch_s=1.0,
        train_s=busy_s - 2.0,
        upload_s=1.0,
        bytes_up=1_000_000,
        bytes_down=2_000_000,
        outcomes=Counter({Outcome.ACCEPTED: 8, Outcome.STALE: 1, Outcome.EXPIRED: 2}),
        labels=[Announced(0, labels)],
    )


def row(version: int, closed_s: float, n_star: int) -> VersionRow:
    """A version of three updates."""
    return VersionRow(
        version,
        closed_s,
        reason="count",
        waited_s=closed_s / version,
        update_count=3,
        coverage_planned=n_star,
        coverage_min=n_star,
        coverage_bound=2.5,
        staleness=(0, 0, 1),
        staleness_mean=1 / 3,
    )


def cell(
    policy: str = "co-s2p",
    seed: int = 0,
    accuracies: Sequence[float] = (0.2, 0.4, 0.6),
    *,
    base: str | None = None,
    setting: str = "skewed",
    closing: str = "semi-async",
    devices: tuple[CellDevice, ...] | None = None,
    coverage: Sequence[int] = (0, 1, 1),
    every_s: float = 30.0,
) -> CellResult:
    """A cell of 90 s that is evaluated every 30 s and moves a megabyte in that time."""
    if devices is None:
        devices = tuple(
            device(f"worker-{i}", ("nano", "orin")[i], labels=labels)
            for i, labels in enumerate(SKEWED_LABELS)
        )
    curve = tuple(
        CurvePoint(
            version=i + 1,
            virtual_s=every_s * (i + 1),
            bytes_up=400_000 * (i + 1),
            bytes_down=600_000 * (i + 1),
            device_s=10.0 * (i + 1),
            accuracy=a,
            raw_accuracy=a - 0.1,
            loss=1 - a,
            plain_accuracy=a - 0.05,
            scaled_accuracy=a + 0.01,
        )
        for i, a in enumerate(accuracies)
    )
    rounds = tuple(row(i + 1, 30.0 * (i + 1), n) for i, n in enumerate(coverage))
    return CellResult(
        identity=Identity(
            "sample", "digits", setting, policy, base or policy, seed, "two", "test", f"{seed:04d}"
        ),
        config={"rounds": {"closing": closing, "coverage_window": 2}},
        horizon_s=90.0,
        ended_s=90.0,
        end_reason="target",
        end_detail="",
        versions=len(rounds),
        parameters=1000,
        curve=curve,
        rounds=rounds,
        devices=devices,
        segments=(Span("worker-0", "fetch", 0.0, 1.0), Span("worker-0", "train", 1.0, 5.0)),
        coverage=CoverageMap(
            ("stem", "block0.head.0"), (False, True), (0.0, 45.0, 90.0), ((1, 2), (0, 3))
        ),
        effort=Effort(cpu_s=90.0, wall_s=100.0),
    )


def study(
    cells: Sequence[CellResult],
    *,
    missing: tuple[Missing, ...] = (),
    suite_text: str = "",
    **changes: Any,
) -> Study:
    """A study of these cells: labels and seeds in their order, `rolling` the opponent."""
    labels = [(c.identity.setting, c.identity.policy) for c in cells]
    labels += [(gap.setting, gap.policy) for gap in missing]
    given: dict[str, Any] = {
        "name": "sample",
        "settings": {setting: SettingPart() for setting, _ in labels},
        "policies": {policy: PolicyPart() for _, policy in labels},
        "seeds": tuple(sorted({c.identity.seed for c in cells})),
        "opponent": "rolling",
    }
    suite = Suite.model_construct(**given | changes)  # labels may hold blanks here
    return Study(suite, tuple(cells), missing, suite_text=suite_text)


CLASSES = (
    ("nano", 4, 0.25, 0.04),
    ("tx2", 3, 0.45, 0.13),
    ("xavier-nx", 3, 0.45, 0.16),
    ("orin-nano", 1, 0.6, 0.24),
    ("agx-xavier", 2, 0.75, 0.27),
    ("orin-nx", 2, 0.75, 0.35),
    ("agx-orin", 1, 0.9, 1.0),
)
"""Device class, how many, fraction of the prunable cost, relative speed."""
METHODS = (
    ("co-s2p", "co-s2p", "semi-async", 0.78, 55),
    ("rolling-staggered", "rolling-staggered", "semi-async", 0.76, 62),
    ("heterofl", "heterofl", "synchronous", 0.66, 95),
    ("heterofl semi-async", "heterofl", "semi-async", 0.70, 60),
    ("fedrolex", "fedrolex", "synchronous", 0.69, 110),
    ("fedrolex semi-async", "fedrolex", "semi-async", 0.75, 66),
    ("depthfl", "depthfl", "synchronous", 0.64, 105),
    ("scalefl", "scalefl", "synchronous", 0.63, 108),
    ("fjord", "fjord", "synchronous", 0.65, 98),
    ("federated-dropout", "federated-dropout", "synchronous", 0.68, 115),
    ("fiarse", "fiarse", "synchronous", 0.67, 100),
    ("fedbuff", "fedbuff", "buffer", 0.60, 50),
    ("fedavg-small", "fedavg-small", "synchronous", 0.58, 60),
    ("fedavg-ideal", "fedavg-ideal", "synchronous", 0.80, 90),
)
"""Label, base policy, closing, accuracy that it tends to, time constant in seconds."""


def lifelike_study(
    seeds: int = 5, settings: Sequence[str] = ("iid", "dirichlet-0.1"), **changes: Any
) -> Study:
    """A suite of many methods on 16 devices, drawn from a seed; it says nothing of any method."""
    cells = [
        lifelike_cell(method, setting, seed)
        for setting in settings
        for method in METHODS
        for seed in range(seeds)
    ]
    return study(cells, **{"opponent": "rolling-staggered", **changes})


def lifelike_cell(
    method: tuple[str, str, str, float, float], setting: str, seed: int
) -> CellResult:
    """One cell of 400 s."""
    label, base, closing, height, slowness = method
    chance = np.random.default_rng([seed, *label.encode()])
    skewed = setting != "iid"
    shared = np.random.default_rng([seed, 7]).normal(0, 0.02)
    height += shared + chance.normal(0, 0.008) - 0.1 * skewed
    asynchronous = closing != "synchronous"
    closed = np.arange(1, 401 // (6 if asynchronous else 20)) * (6.0 if asynchronous else 20.0)
    curve = []
    for version, at in enumerate(closed, 1):
        accuracy = 0.1 + (height - 0.1) * (1 - np.exp(-at / slowness / (1.4 if skewed else 1)))
        noise = chance.normal(0, 0.03 if skewed else 0.012, 2)
        rate = 9e4 if asynchronous else 6e4
        curve.append(
            CurvePoint(
                version,
                virtual_s=float(at),
                bytes_up=int(rate * at),
                bytes_down=int(1.2 * rate * at),
                device_s=8 * float(at),
                accuracy=float(accuracy + 0.3 * noise[0]),
                raw_accuracy=float(accuracy + noise[1] - 0.02),
                loss=float(1 - accuracy),
            )
        )
    fleet, segments = _fleet(chance, asynchronous, skewed)
    sigma = sum(d.budget for d in fleet)
    blocks = [f"block{b}.{k}.{i}" for b in range(6) for k in ("head", "neurons") for i in range(4)]
    ramp = np.arange(len(blocks)) % 4 if base in ("heterofl", "fjord") else np.zeros(len(blocks))
    counts = chance.poisson(np.maximum(0.2, 6 - 2 * ramp)[:, None], (len(blocks), 40))
    return CellResult(
        identity=Identity(
            "sample", "fashion-mnist", setting, label, base, seed, "jetson16-weak", "test", "ab"
        ),
        config={"rounds": {"closing": closing, "coverage_window": 4}},
        horizon_s=400.0,
        ended_s=400.0,
        end_reason="target",
        end_detail="",
        versions=len(closed),
        parameters=205_000,
        curve=tuple(curve),
        rounds=tuple(
            VersionRow(
                v,
                float(at),
                "count" if asynchronous else "all",
                6.0,
                6,
                6,
                int(chance.integers(3, 7)) if base == "co-s2p" else int(chance.integers(0, 3)),
                sigma,
                staleness=(0, 1, 2),
                staleness_mean=1.0,
            )
            for v, at in enumerate(closed, 1)
        ),
        devices=fleet,
        segments=segments,
        coverage=CoverageMap(
            ("stem", *blocks),
            (False, *(True for _ in blocks)),
            tuple(10.0 * i for i in range(41)),
            (tuple(int(n) for n in counts.max(axis=0)), *(tuple(map(int, row)) for row in counts)),
        ),
        effort=Effort(cpu_s=240.0, wall_s=250.0, train_cpu_s=200.0, evaluate_cpu_s=20.0),
    )


def _fleet(
    chance: np.random.Generator, asynchronous: bool, skewed: bool
) -> tuple[tuple[CellDevice, ...], tuple[Span, ...]]:
    devices: list[CellDevice] = []
    segments: list[Span] = []
    for device_class, count, budget, speed in CLASSES:
        for _ in range(count):
            name = f"worker-{len(devices)}"
            now, busy = 0.0, 0.0
            while now < 400:
                parts = [0.4, 2.2 / speed**0.6 * chance.uniform(0.8, 1.2), 0.5]
                for kind, length in zip(("fetch", "train", "upload"), parts, strict=True):
                    segments.append(Span(name, kind, now, now + length))  # type: ignore[arg-type]
                    now, busy = now + length, busy + length
                now = now + 0.3 if asynchronous else (now // 20 + 1) * 20.0
            labels = chance.dirichlet([0.1] * 10) * 500 if skewed else np.full(10, 50)
            memory = int(9e6 * budget)
            devices.append(
                CellDevice(
                    worker_id=name,
                    device_class=device_class,
                    memory_bytes=memory,
                    budget=budget,
                    flops_per_s=speed * 1e9,
                    bytes_per_s=1e6,
                    sample_count=int(labels.sum()),
                    peak_predicted_bytes=int(memory * chance.uniform(0.9, 0.99)),
                    peak_measured_bytes=int(memory * chance.uniform(0.8, 0.95)),
                    idle_s=max(0.0, 400.0 - busy),
                    train_s=min(busy, 400.0),
                    bytes_up=3_000_000,
                    bytes_down=4_000_000,
                    outcomes=Counter({Outcome.ACCEPTED: 40, Outcome.STALE: 2}),
                    labels=[Announced(0, tuple(int(n) for n in labels))],
                )
            )
    return tuple(devices), tuple(segments)
