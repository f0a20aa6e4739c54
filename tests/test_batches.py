import pickle
import threading

import numpy as np
import pytest

from data_pipelines.batches import BatchLoader


def _row(position: int) -> dict:
    return {"a": {"b": np.full((2, 3), position, np.uint8), "c": np.float32(position)}, "d": True}


def test_rows_of_a_step():
    batch = BatchLoader(_row, batch_size=10, rows=range(4, 7), threads=2)(3)
    assert batch["a"]["b"].shape == (3, 2, 3)
    assert batch["a"]["b"].dtype == np.uint8
    np.testing.assert_array_equal(batch["a"]["c"], [34, 35, 36])
    assert batch["a"]["c"].dtype == np.float32
    assert batch["d"].tolist() == [True] * 3


@pytest.mark.parametrize("rows, held", [(range(4), 2), (range(2, 4), 0), (range(1, 3), 1)])
def test_rows_past_the_end_are_zeros(rows, held):
    batch = BatchLoader(_row, 4, rows, 2, end=6)(1)
    assert batch["d"].tolist() == [True] * held + [False] * (len(rows) - held)
    assert not batch["a"]["b"][held:].any()


def test_errors_of_any_row_come_through():
    def load(position: int) -> dict:
        if position == 5:
            raise ValueError("row 5")
        return _row(position)

    with pytest.raises(ValueError, match="row 5"):
        BatchLoader(load, 8, range(8), 3)(0)


def test_rows_load_side_by_side():
    barrier = threading.Barrier(3, timeout=10)

    def load(position: int) -> dict:
        if position:
            barrier.wait()
        return _row(position)

    BatchLoader(load, 4, range(4), 3)(0)


def test_pickles_after_use():
    loader = BatchLoader(_row, 4, range(4), 2)
    first = loader(1)
    again = pickle.loads(pickle.dumps(loader))(1)
    np.testing.assert_array_equal(first["a"]["b"], again["a"]["b"])
