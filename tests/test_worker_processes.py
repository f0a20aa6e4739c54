import multiprocessing
import os
import time
from concurrent import futures

import pytest

from data_pipelines import worker_processes

V2 = "0::{}\n"
V1 = "11:memory:/other\n4:cpu,cpuacct:{}\n0::/\n"
# Lines of mountinfo: the group at the top of the mount, and the mount point.
MOUNT_2 = "31 23 0:28 {} {} rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
MOUNT_1 = "32 23 0:29 {} {} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
TOP = "/sys/fs/cgroup"


def machine(root, groups: str, mounts: str, files: dict[str, str]) -> str:
    """Writes the control group files of Linux below a folder, which is returned."""
    for name, text in {
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda rw\n" + mounts,
        **files,
    }.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    "groups,mounts,files,cores",
    [
        # a container whose group is at the top, as in Docker and Kubernetes
        (V2.format("/"), MOUNT_2.format("/", TOP), {f"{TOP}/cpu.max": "200000 100000\n"}, 2),
        (V2.format("/"), MOUNT_2.format("/", TOP), {f"{TOP}/cpu.max": "max 100000\n"}, 8),
        (V2.format("/"), MOUNT_2.format("/", TOP), {f"{TOP}/cpu.max": "150000 100000\n"}, 2),
        (V2.format("/"), MOUNT_2.format("/", TOP), {f"{TOP}/cpu.max": "1000 100000\n"}, 1),
        (V2.format("/"), MOUNT_2.format("/", TOP), {f"{TOP}/cpu.max": "9999999 100000\n"}, 8),
        # a service on the host: any ancestor group may have the quota
        (
            V2.format("/a.slice/b.service"),
            MOUNT_2.format("/", TOP),
            {
                f"{TOP}/a.slice/cpu.max": "300000 100000\n",
                f"{TOP}/a.slice/b.service/cpu.max": "max 100000\n",
            },
            3,
        ),
        (
            V2.format("/a.slice/b.service"),
            MOUNT_2.format("/", TOP),
            {
                f"{TOP}/a.slice/cpu.max": "300000 100000\n",
                f"{TOP}/a.slice/b.service/cpu.max": "50000 25000\n",
            },
            2,
        ),
        # the group by its path on the host, of which only the end is mounted
        (V2.format("/x/y"), MOUNT_2.format("/x/y", TOP), {f"{TOP}/cpu.max": "400000 100000"}, 4),
        (V2.format("/../y"), MOUNT_2.format("/..", TOP), {f"{TOP}/y/cpu.max": "400000 100000"}, 4),
        # version 1
        (
            V1.format("/docker/1"),
            MOUNT_1.format("/docker/1", f"{TOP}/cpu,cpuacct"),
            {
                f"{TOP}/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
                f"{TOP}/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            V1.format("/docker/1"),
            MOUNT_1.format("/docker/1", f"{TOP}/a\\040b"),
            {f"{TOP}/a b/cpu.cfs_quota_us": "100000", f"{TOP}/a b/cpu.cfs_period_us": "50000"},
            2,
        ),
        (
            V1.format("/"),
            MOUNT_1.format("/", f"{TOP}/cpu"),
            {f"{TOP}/cpu/cpu.cfs_quota_us": "-1", f"{TOP}/cpu/cpu.cfs_period_us": "100000"},
            8,
        ),
        # missing or invalid files
        ("", "", {}, 8),
        (V2.format("/a"), MOUNT_2.format("/", TOP), {}, 8),
        (V2.format("/"), MOUNT_2.format("/", TOP), {f"{TOP}/cpu.max": "0 0\n"}, 8),
        (V2.format("/"), MOUNT_2.format("/", TOP), {f"{TOP}/cpu.max": ""}, 8),
        ("nonsense\n::::\n", "x - y\n\n-\n", {}, 8),
    ],
)
def test_cores_are_limited_by_container(tmp_path, monkeypatch, groups, mounts, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert worker_processes.usable_cores(machine(tmp_path, groups, mounts, files)) == cores


def test_cores_are_limited_by_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6}, raising=False)
    quota = {f"{TOP}/cpu.max": "400000 100000\n"}
    root = machine(tmp_path, V2.format("/"), MOUNT_2.format("/", TOP), quota)
    assert worker_processes.usable_cores(root) == 3
    assert worker_processes.usable_cores() in (1, 2, 3)  # of this machine, without its quota


def _main_process(pids) -> None:
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, context, worker_processes.end_with_parent) as pool:
        pids.put(pool.submit(os.getpid).result())
        time.sleep(60)


def test_pool_worker_ends_with_its_parent():
    context = multiprocessing.get_context("spawn")
    pids = context.Queue()
    process = context.Process(target=_main_process, args=(pids,))
    process.start()
    worker = os.pidfd_open(pids.get(timeout=60))
    process.kill()
    process.join()
    assert multiprocessing.connection.wait([worker], timeout=30)
    os.close(worker)
