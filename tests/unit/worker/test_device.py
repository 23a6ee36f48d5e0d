"""What a machine lets a worker use, on trees of files that stand for machines."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cos2p.errors import SettingsError
from cos2p_worker.device import cpu_limit, memory_limit, thread_count

GIB = 1 << 30
Tree = Callable[[dict[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes a machine: 8 GiB, a process that holds 1 GiB, and the files given."""

    def make(files: dict[str, str]) -> Path:
        base = {
            "proc/meminfo": f"MemTotal: {8 * GIB // 1024} kB\nMemFree: 1 kB\n",
            "proc/self/status": f"Name: x\nVmRSS: {GIB // 1024} kB\n",
        }
        for name, text in (base | files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def test_a_machine_without_cgroups_gives_its_memory_less_what_the_process_holds(tree: Tree) -> None:
    limit = memory_limit(root=tree({}))

    assert (7 * GIB, "machine", 8 * GIB) == (limit.bytes_free, limit.source, limit.limit_bytes)


def test_a_cgroup_v2_limit_is_found(tree: Tree) -> None:
    root = tree(
        {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/box/memory.max": f"{4 * GIB}\n"}
    )

    limit = memory_limit(root=root)

    assert (3 * GIB, "cgroup") == (limit.bytes_free, limit.source)


def test_the_tightest_cgroup_above_the_process_counts(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/box/memory.max": "max\n",
            "sys/fs/cgroup/pod/memory.max": f"{2 * GIB}\n",
        }
    )

    assert GIB == memory_limit(root=root).bytes_free


def test_in_a_container_the_mount_itself_is_the_limit(tree: Tree) -> None:
    """The path in /proc is the host's; below the mount there is only the container's own group."""
    root = tree({"proc/self/cgroup": "0::/host/only\n", "sys/fs/cgroup/memory.max": f"{3 * GIB}"})

    assert 2 * GIB == memory_limit(root=root).bytes_free


def test_a_cgroup_v1_limit_is_found(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        }
    )

    limit = memory_limit(root=root)

    assert (GIB, "cgroup") == (limit.bytes_free, limit.source)


def test_a_v1_group_without_a_limit_leaves_the_machine_as_the_limit(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": "4:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        }
    )

    assert "machine" == memory_limit(root=root).source


def test_a_gpu_s_free_memory_goes_before_the_cgroup(tree: Tree) -> None:
    root = tree({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIB * 2}"})

    limit = memory_limit(root=root, gpu=lambda: (5 * GIB, 6 * GIB))

    assert (5 * GIB, "cuda", 6 * GIB) == (limit.bytes_free, limit.source, limit.limit_bytes)


def test_a_probe_that_finds_no_gpu_changes_nothing(tree: Tree) -> None:
    assert "machine" == memory_limit(root=tree({}), gpu=lambda: None).source


def test_what_the_operator_says_goes_before_everything(tree: Tree) -> None:
    limit = memory_limit(123, root=tree({}), gpu=lambda: (5 * GIB, 6 * GIB))

    assert (123, "override") == (limit.bytes_free, limit.source)


def test_odd_files_count_as_no_limit(tree: Tree) -> None:
    root = tree({"proc/self/cgroup": "garbage\n0::/\n", "sys/fs/cgroup/memory.max": "lots\n"})

    assert "machine" == memory_limit(root=root).source


def test_a_limit_that_the_runtime_has_used_up_is_an_error(tree: Tree) -> None:
    root = tree({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIB // 2}"})

    with pytest.raises(SettingsError, match="already holds"):
        memory_limit(root=root)


def test_a_machine_that_says_nothing_is_an_error_that_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--memory-bytes"):
        memory_limit(root=tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8.0),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 8.0),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpuset.cpus.effective": "0-2,5\n"}, 4.0),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpuset.cpus.effective": "\n"}, 8.0),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8.0,
        ),
        ({"proc/self/cgroup": "3:cpuset:/\n", "sys/fs/cgroup/cpuset/cpuset.cpus": "1,3"}, 2.0),
    ],
)
def test_the_least_of_quota_cpuset_and_affinity_is_the_cpu_limit(
    tree: Tree, files: dict[str, str], expected: float
) -> None:
    assert expected == cpu_limit(root=tree(files), affinity=8, machine=16)


def test_affinity_limits_too(tree: Tree) -> None:
    assert 2.0 == cpu_limit(root=tree({}), affinity=2, machine=16)


@pytest.mark.parametrize(("cpus", "threads"), [(0.3, 1), (1.0, 1), (1.9, 1), (2.0, 2), (7.5, 7)])
def test_threads_are_whole_cpus_and_at_least_one(cpus: float, threads: int) -> None:
    assert threads == thread_count(cpus)


def test_this_very_machine_can_be_probed() -> None:
    assert memory_limit().bytes_free > 0
    assert cpu_limit() > 0
