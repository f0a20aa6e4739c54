import errno
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from multiprocessing import shared_memory

import numpy as np
import pytest
from failing_calls import system_error

from data_pipelines.buffers import carve
from data_pipelines.errors import UserError
from data_pipelines.read.shared_buffers import SharedArray, SharedBlocks, SharedBufferPool


@pytest.fixture
def blocks():
    found = SharedBlocks()
    yield found
    found.close()


def _made(pool: SharedBufferPool, value: int, size: int = 4096) -> dict:
    memory = pool.empty(size)
    memory[:] = value
    batch = {
        "x": {"y": carve(memory, 64, (3, 4), np.int32)},
        "z": memory[1024:2048],
        "small": np.array([value]),
    }
    return pickle.loads(pickle.dumps(pool.references(batch)))  # as sent to another process


def _there(name: str) -> bool:
    try:
        shared_memory.SharedMemory(name).close()
    except FileNotFoundError:
        return False
    return True


def test_batch_is_not_copied(blocks):
    shared = _made(SharedBufferPool(blocks.name), 7)
    assert isinstance(shared["z"], SharedArray)
    assert len(pickle.dumps(shared)) < 1000
    batch = blocks.open(shared)
    assert batch["small"] == 7
    np.testing.assert_array_equal(batch["z"], np.full(1024, 7, np.uint8))
    np.testing.assert_array_equal(batch["x"]["y"], np.full((3, 4), 0x07070707, np.int32))
    assert batch["x"]["y"].ctypes.data % 64 == 0


def test_block_is_reused_when_batch_is_unreferenced(blocks):
    pool = SharedBufferPool(blocks.name)
    batch = blocks.open(_made(pool, 1))
    kept = batch["z"][5:9]
    del batch
    names = {_made(pool, 2)["z"].block for _ in range(2)}
    assert (kept == 1).all()  # still in the first block: two others were created
    del kept
    gc.collect()
    (name,) = {_made(pool, 3)["z"].block} - names
    assert blocks.open(_made(pool, 4))["z"][0] == 4
    assert name == f"{blocks.name}_0"


def test_batches_without_large_arrays_need_no_blocks(blocks):
    assert SharedBufferPool(blocks.name).empty(0).shape == (0,)
    assert not _there(f"{blocks.name}_0")


def test_blocks_of_another_size_are_not_used(blocks):
    pool = SharedBufferPool(blocks.name)
    first = blocks.open(_made(pool, 1))["z"].copy()
    assert _made(pool, 2, size=8192)["z"].block != f"{blocks.name}_0"
    assert (first == 1).all()


def test_workers_use_distinct_block_names(blocks):
    pools = [SharedBufferPool(blocks.name) for _ in range(2)]
    shared = [_made(pool, value) for value, pool in enumerate(pools * 2)]
    assert sorted(s["z"].block for s in shared) == [f"{blocks.name}_{i}" for i in range(4)]
    assert [int(blocks.open(s)["z"][0]) for s in shared] == [0, 1, 2, 3]


def test_pickled_pool_is_empty(blocks):
    pool = SharedBufferPool(blocks.name)
    pool.empty(4096)
    again = pickle.loads(pickle.dumps(pool))
    assert _made(again, 5)["z"].block == f"{blocks.name}_1"


def test_closing_removes_all_blocks_and_leaves_batches_in_use(blocks):
    pool = SharedBufferPool(blocks.name)
    batch = blocks.open(_made(pool, 6))
    never_handed_over = pool.empty(4096)
    blocks.close()
    assert not any(_there(f"{blocks.name}_{i}") for i in range(3))
    assert (batch["z"] == 6).all()
    never_handed_over[:] = 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux reserves memory")
def test_too_little_shared_memory_is_one_sentence(blocks, monkeypatch):
    """Without the check, a write would kill the process by SIGBUS."""

    monkeypatch.setattr(os, "posix_fallocate", system_error(errno.ENOSPC))
    with pytest.raises(
        UserError, match=r"not enough shared memory for a batch of 3 MB .*--shm-size"
    ):
        SharedBufferPool(blocks.name).empty(3 << 20)
    blocks.close()
    assert not _there(f"{blocks.name}_0")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.EACCES])
def test_block_that_cannot_be_made_is_one_sentence(blocks, monkeypatch, code):
    monkeypatch.setattr(shared_memory, "SharedMemory", system_error(code))
    sentence = rf"not enough shared memory for a batch of 3 MB \({os.strerror(code)}\).*--shm-size"
    with pytest.raises(UserError, match=sentence):
        SharedBufferPool(blocks.name).empty(3 << 20)
    monkeypatch.undo()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux reserves memory")
def test_worker_without_memory_keeps_blocks_of_others(blocks, monkeypatch):
    """Another worker creates a block while the first one fails."""
    reserve = os.posix_fallocate

    def refuse(*block):
        monkeypatch.setattr(os, "posix_fallocate", reserve)
        SharedBufferPool(blocks.name).empty(4096)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match="not enough shared memory"):
        SharedBufferPool(blocks.name).empty(4096)
    blocks.close()
    assert not any(_there(f"{blocks.name}_{i}") for i in range(3))


WITHOUT_MEMORY = """
import errno, multiprocessing, os, time
from multiprocessing import resource_tracker, shared_memory
from data_pipelines.read.shared_buffers import SharedBlocks, SharedBufferPool
from data_pipelines.errors import UserError

def refuse(*block):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

def unlink_slowly(name, unlink=shared_memory._posixshmem.shm_unlink):
    unlink(name)
    time.sleep(0.01)  # another worker may take the name meanwhile

def work(name):
    os.posix_fallocate = refuse
    shared_memory._posixshmem.shm_unlink = unlink_slowly
    for _ in range(10):
        try:
            SharedBufferPool(name).empty(4096)
        except UserError:
            pass

resource_tracker.ensure_running()
blocks, context = SharedBlocks(), multiprocessing.get_context("fork")
workers = [context.Process(target=work, args=(blocks.name,)) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
blocks.close()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux reserves memory")
def test_workers_without_memory_cause_no_resource_tracker_warning():
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY], capture_output=True, text=True, check=True
    )
    assert found.stderr == ""


def _make_and_hang(pool: SharedBufferPool, queue) -> None:
    queue.put(_made(pool, 9))
    multiprocessing.Event().wait()


def test_shared_memory_of_killed_worker_is_removed(blocks, capfd):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=_make_and_hang, args=(SharedBufferPool(blocks.name), queue))
    worker.start()
    batch = blocks.open(queue.get(timeout=60))
    worker.kill()
    worker.join()
    assert (batch["z"] == 9).all()
    blocks.close()
    assert not _there(f"{blocks.name}_0")
