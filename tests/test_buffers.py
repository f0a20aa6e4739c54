import threading

import numpy as np

from data_pipelines.buffers import ALIGNMENT, BufferPool, carve


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_reused():
    pool = BufferPool()
    first = pool.empty(12000)
    address = _address(first)
    assert first.shape == (12000,)
    assert first.dtype == np.uint8
    assert first.flags.writeable
    assert address % ALIGNMENT == 0
    del first
    assert _address(pool.empty(12000)) == address


def test_referenced_memory_is_not_reused():
    pool = BufferPool()
    array = pool.empty(1000)
    array[:] = 7
    kept = array[10:20].reshape(2, 5)
    foreign = memoryview(array)[500:]
    address = _address(array)
    del array
    others = [pool.empty(1000) for _ in range(3)]
    assert address not in map(_address, others)
    for other in others:
        other[:] = 0
    assert (kept == 7).all()
    assert foreign[0] == 7
    del kept, foreign
    assert _address(pool.empty(1000)) == address


def test_threads_get_separate_memory():
    pool = BufferPool()
    wrong = []

    def work(number: int) -> None:
        for _ in range(300):
            array = pool.empty(512)
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_empty_array_needs_no_memory():
    assert BufferPool().empty(0).shape == (0,)


def test_array_is_a_view_of_the_memory():
    memory = np.arange(64, dtype=np.uint8)
    array = carve(memory, 16, (2, 3), np.float32)
    assert (array.shape, array.dtype) == ((2, 3), np.float32)
    assert array.tobytes() == memory[16:40].tobytes()
    assert np.shares_memory(array, memory)
