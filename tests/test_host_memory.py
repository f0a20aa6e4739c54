"""The memory limit of a process, from Linux's files on machines and containers."""

import pytest

from data_pipelines.host_memory import memory_limit, memory_used

GIB = 2**30
MEMINFO = f"MemTotal:       {16 * GIB // 1024} kB\nMemFree:         1 kB\n"
MOUNT_2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
MOUNT_1 = "32 23 0:29 {} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    "groups,mounts,files,gib",
    [
        ("0::/\n", MOUNT_2, {"memory.max": str(4 * GIB)}, 4),
        ("0::/\n", MOUNT_2, {"memory.max": "max\n"}, 16),
        ("0::/\n", MOUNT_2, {"memory.max": str(64 * GIB)}, 16),
        # any ancestor group may have the limit
        ("0::/a/b\n", MOUNT_2, {"a/memory.max": str(3 * GIB), "a/b/memory.max": "max"}, 3),
        # version 1, in which about 2^63 means no limit
        ("4:memory:/d\n", MOUNT_1.format("/d"), {"memory/memory.limit_in_bytes": str(GIB)}, 1),
        ("4:memory:/d\n", MOUNT_1.format("/d"),
         {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, 16),
        ("4:cpu:/d\n", MOUNT_1.format("/d"), {"memory/memory.limit_in_bytes": str(GIB)}, 16),
        ("", "", {}, 16),
    ],
)  # fmt: skip
def test_limit_is_minimum_of_machine_and_containers(tmp_path, groups, mounts, files, gib):
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()} | {
        "proc/self/cgroup": groups, "proc/self/mountinfo": mounts, "proc/meminfo": MEMINFO,
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit(str(tmp_path)) == gib * GIB


def test_this_process_is_below_limit():
    assert 0 < memory_used() < memory_limit()


def test_limit_without_information_is_positive(tmp_path):
    assert memory_used(str(tmp_path)) == 0
    assert memory_limit(str(tmp_path)) > 0
