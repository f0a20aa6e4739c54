import multiprocessing
import os
import time
from concurrent import futures

from data_pipelines import worker_processes


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6}, raising=False)
    assert worker_processes.usable_cores() == 3


def _main_process(pids) -> None:
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, context, worker_processes.end_with_parent) as pool:
        pids.put(pool.submit(os.getpid).result())
        time.sleep(60)


def test_a_worker_of_a_pool_ends_with_its_parent():
    context = multiprocessing.get_context("spawn")
    pids = context.Queue()
    process = context.Process(target=_main_process, args=(pids,))
    process.start()
    worker = os.pidfd_open(pids.get(timeout=60))
    process.kill()
    process.join()
    assert multiprocessing.connection.wait([worker], timeout=30)
    os.close(worker)
