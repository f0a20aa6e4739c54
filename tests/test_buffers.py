import pickle
import threading

import numpy as np

from data_pipelines.buffers import BufferPool


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again():
    pool = BufferPool()
    first = pool.empty((3, 1000), np.float32)
    address = _address(first)
    assert first.shape == (3, 1000)
    assert first.dtype == np.float32
    assert first.flags.writeable
    del first
    assert _address(pool.empty((6000,), np.uint16)) == address


def test_memory_that_anything_refers_to_is_not():
    pool = BufferPool()
    array = pool.empty((1000,), np.uint8)
    array[:] = 7
    kept = array[10:20].reshape(2, 5)
    foreign = memoryview(array)[500:]
    address = _address(array)
    del array
    others = [pool.empty((1000,), np.uint8) for _ in range(3)]
    assert address not in map(_address, others)
    for other in others:
        other[:] = 0
    assert (kept == 7).all()
    assert foreign[0] == 7
    del kept, foreign
    assert _address(pool.empty((1000,), np.uint8)) == address


def test_threads_get_memory_of_their_own():
    pool = BufferPool()
    wrong = []

    def work(number: int) -> None:
        for _ in range(300):
            array = pool.empty((64,), np.int64)
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pickles_as_an_empty_pool():
    pool = BufferPool()
    pool.empty((10,), np.uint8)
    assert pickle.loads(pickle.dumps(pool)).empty((10,), np.uint8).shape == (10,)


def test_nothing_in_nothing():
    assert BufferPool().empty((0, 5), np.float32).shape == (0, 5)
