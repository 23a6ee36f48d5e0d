"""What this machine lets the worker use: memory and CPUs, from its cgroups, GPU and affinity.

Invariants:
- The tightest limit wins.
- A file that is missing, unreadable or malformed counts as no limit, never as an error.
- Everything is read below one root, so tests can pass their own tree.
- Torch is not imported. The caller passes a function that reads the GPU's memory.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cos2p.errors import SettingsError

UNLIMITED_BYTES = 1 << 60
"""Values from here on mean no limit: cgroup v1 writes "no limit" as a number near 2**63."""

GpuProbe = Callable[[], tuple[int, int] | None]
"""Bytes (free, total) of the GPU's memory; None where there is none (`torch.cuda.mem_get_info`)."""
Source = Literal["override", "cuda", "cgroup", "machine"]


@dataclass(frozen=True)
class MemoryLimit:
    """Bytes that training may use at its peak: what the process does not hold of the limit."""

    bytes_free: int
    source: Source
    limit_bytes: int


def memory_limit(
    override: int | None = None, *, root: Path = Path("/"), gpu: GpuProbe | None = None
) -> MemoryLimit:
    """Return how much memory training may use: an operator's setting, a GPU's free memory, or RAM.

    Raises:
        SettingsError: no limit can be found at all, or the runtime alone has used it up.
    """
    if override is not None:
        return MemoryLimit(override, "override", override)
    found = gpu() if gpu is not None else None
    if found is not None:
        free, total = found
        return MemoryLimit(free, "cuda", total)
    used = _kilobytes(root / "proc/self/status", "VmRSS") or 0
    machine = _kilobytes(root / "proc/meminfo", "MemTotal")
    limits: list[tuple[int, Source]] = [(b, "cgroup") for b in _memory_limits(root)]
    if machine is not None:
        limits.append((machine, "machine"))
    if not limits:
        raise SettingsError("no memory limit found on this machine: set --memory-bytes")
    limit, source = min(limits)
    if limit <= used:
        raise SettingsError(
            f"the {source} allows {limit} bytes and this process already holds {used}: "
            "give it more memory, or set --memory-bytes"
        )
    return MemoryLimit(limit - used, source, limit)


def cpu_limit(
    *, root: Path = Path("/"), affinity: int | None = None, machine: int | None = None
) -> float:
    """Return the CPUs that this process may keep busy: the least of quota, cpuset and affinity.

    None for `affinity` (what the scheduler allows) or `machine` (all CPUs) asks the system.
    """
    if affinity is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    limits = [float(c) for c in (affinity, machine or os.cpu_count() or 1) if c > 0]
    for folder in _folders(root):
        limits += _quota(_text(folder / "cpu.max"))
        limits += _cpuset(folder / "cpuset.cpus.effective")
    for folder in _folders(root, "cpu"):
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        limits += _quota(f"{quota} {period}")
    for folder in _folders(root, "cpuset"):
        limits += _cpuset(folder / "cpuset.cpus")
    return min(limits)


def thread_count(cpus: float) -> int:
    """Return the threads for computing: whole CPUs only (more would be throttled), at least one."""
    return max(1, math.floor(cpus + 1e-6))


def _memory_limits(root: Path) -> Iterator[int]:
    files = [f / "memory.max" for f in _folders(root)]
    files += [f / "memory.limit_in_bytes" for f in _folders(root, "memory")]
    for file in files:
        fields = _text(file).split()
        if fields and fields[0].isdigit() and 0 < int(fields[0]) < UNLIMITED_BYTES:
            yield int(fields[0])


def _folders(root: Path, controller: str = "") -> list[Path]:
    """Return the process's folder of a cgroup v1 controller ("": of v2) and those above it."""
    own, mounts = _group_of(root, controller), [root / "sys/fs/cgroup"]
    if own is None:
        return []
    if controller:
        mounts = [m for m in sorted(mounts[0].glob("*")) if controller in m.name.split(",")]
    return [folder for mount in mounts for folder in _upwards(mount, own)]


def _group_of(root: Path, controller: str) -> str | None:
    """Return the process's path in a hierarchy ("" names v2's), from `/proc/self/cgroup`."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if colon and controller in names.split(","):
            return path
    return None


def _upwards(mount: Path, own: str) -> list[Path]:
    """Return `mount`/`own` and its parents up to `mount`.

    In a container the path may be that of the host. Then only `mount` exists, and is the limit.
    """
    parts = [p for p in own.split("/") if p not in ("", "..", ".")]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quota(text: str) -> list[float]:
    """Return the CPUs of a quota "MICROSECONDS PERIOD"; none where it is max or -1."""
    fields = text.split()
    if len(fields) == 2 and all(w.isdigit() for w in fields) and int(fields[1]) > 0:
        return [int(fields[0]) / int(fields[1])] if int(fields[0]) > 0 else []
    return []


def _cpuset(file: Path) -> list[float]:
    """Return the number of CPUs in a list such as "0-3,8"; none where it is empty or malformed."""
    count = 0
    for part in _text(file).strip().split(","):
        low, _, high = part.partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            return []
        count += int(high or low) - int(low) + 1
    return [float(count)] if count > 0 else []


def _kilobytes(file: Path, name: str) -> int | None:
    for line in _text(file).splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] == f"{name}:" and fields[1].isdigit():
            return int(fields[1]) * 1024
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
