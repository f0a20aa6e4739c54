import pickle
import threading
import time

import grain
import numpy as np
import pytest

from data_pipelines.buffers import ALIGNMENT, BufferPool
from data_pipelines.read.batches import BatchInPlace
from data_pipelines.read.shared_buffers import SharedBufferPool


def _batches(load, batch_size, rows, threads, end=10**6, buffers=None) -> BatchInPlace:
    parent = grain.MapDataset.range(end).map(load)
    return BatchInPlace(parent, batch_size, rows, threads, buffers or BufferPool())


def _row(position: int):
    row = {
        "a": {"b": np.full((2, 3), position, np.uint8), "c": np.float32(position)},
        "d": np.True_,
    }
    return row, None


def test_rows_of_a_step_follow_from_its_number():
    batch = _batches(_row, batch_size=10, rows=range(4, 7), threads=2)[3]
    assert batch["a"]["b"].shape == (3, 2, 3)
    assert batch["a"]["b"].dtype == np.uint8
    np.testing.assert_array_equal(batch["a"]["c"], [34, 35, 36])
    assert batch["a"]["c"].dtype == np.float32
    assert batch["d"].tolist() == [True] * 3


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("count", [1, 2, 16, 35])
def test_batches_of_all_rows_are_in_order(count, threads):
    """A thread may read several rows before it fills them."""
    batch = _batches(_row, count, range(count), threads)[2]
    np.testing.assert_array_equal(batch["a"]["c"], np.arange(2 * count, 3 * count))


@pytest.mark.parametrize("end, batches", [(0, 0), (7, 2), (8, 2), (9, 3)])
def test_last_batch_may_be_short(end, batches):
    assert len(_batches(_row, 4, range(4), 2, end=end)) == batches


def test_slices_like_grain_data_sets():
    batches = _batches(_row, 4, range(2), 2)[3:9:2]
    assert [batch["a"]["c"].tolist() for batch in batches] == [[12, 13], [20, 21], [28, 29]]


@pytest.mark.parametrize("rows, held", [(range(4), 2), (range(2, 4), 0), (range(1, 3), 1)])
def test_rows_past_end_are_zeros(rows, held):
    batch = _batches(_row, 4, rows, 2, end=6)[1]
    assert batch["d"].tolist() == [True] * held + [False] * (len(rows) - held)
    assert not batch["a"]["b"][held:].any()


def test_errors_of_any_row_are_raised():
    def load(position: int):
        if position == 5:
            raise ValueError("row 5")
        return _row(position)

    with pytest.raises(ValueError, match="row 5"):
        _batches(load, 8, range(8), 3)[0]


def test_failed_batch_stops_other_threads():
    loaded = []

    def load(position: int):
        loaded.append(position)
        if position == 1:
            raise ValueError("row 1")
        time.sleep(0.002)
        return _row(position)

    batches = _batches(load, 1000, range(1000), 4)
    with pytest.raises(ValueError, match="row 1"):
        batches[0]
    time.sleep(0.05)
    assert len(loaded) < 100


def test_rows_load_in_parallel():
    barrier = threading.Barrier(3, timeout=10)

    def load(position: int):
        if position:
            barrier.wait()
        return _row(position)

    _batches(load, 4, range(4), 3)[0]


def test_batches_can_be_pickled_after_use():
    batches = _batches(_row, 4, range(4), 2, buffers=SharedBufferPool("unused"))
    first = batches[1]
    again = pickle.loads(pickle.dumps(batches))[1]
    np.testing.assert_array_equal(first["a"]["b"], again["a"]["b"])


class _Later:
    """A pending value."""

    shape = (4,)
    dtype = np.dtype(np.int16)

    def __init__(self, value: int):
        self.value = value


def _fill(pending) -> None:
    for later, place in pending:
        place[:] = later.value


def test_pending_values_are_written_in_place():
    def load(position: int):
        return {"x": {"y": _Later(position)}, "z": _Later(-position)}, _fill

    batch = _batches(load, 3, range(3), 2, end=5)[1]
    assert batch["x"]["y"].tolist() == [[3] * 4, [4] * 4, [0] * 4]
    assert batch["z"][:, 0].tolist() == [-3, -4, 0]
    assert batch["z"].dtype == np.int16


def _large_row(position: int):
    frames = np.full((3, 50, 61, 3), position, np.uint8)
    sound = np.full(30_000, position, np.float32)
    return {"video": {"frames": frames, "flip": np.True_}, "audio": sound}, None


def test_batches_in_use_are_not_written_over():
    dataset = _batches(_large_row, 4, range(4), 2)
    batches = [dataset[step] for step in range(5)]
    for step, batch in enumerate(batches):
        assert batch["audio"][:, 0].tolist() == [4 * step + i for i in range(4)]
        assert batch["video"]["frames"][:, -1, -1, -1, -1].tolist() == batch["audio"][:, 0].tolist()


def test_large_arrays_lie_in_one_buffer_and_small_ones_do_not():
    sizes = []

    class Pool(BufferPool):
        def empty(self, size: int) -> np.ndarray:
            sizes.append(size)
            return super().empty(size)

    batch = _batches(_large_row, 4, range(4), 2, buffers=Pool())[0]
    frames, sound, flip = batch["video"]["frames"], batch["audio"], batch["video"]["flip"]
    assert sum(sizes) < frames.nbytes + sound.nbytes + 2 * ALIGNMENT
    for array in (frames, sound):
        assert array.flags.c_contiguous
        assert array.ctypes.data % ALIGNMENT == 0
    assert flip.base is None  # keeping it does not keep the batch
