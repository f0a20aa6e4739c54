import dataclasses
import itertools
import os

import numpy as np
import pytest
import toy_shards

from data_pipelines.errors import UserError
from data_pipelines.format.record_schema import Record
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset

RECORDS = 11


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    records = (toy_shards.record(i, frames=6 + i) for i in range(RECORDS))
    folder = toy_shards.write(tmp_path_factory.mktemp("toy"), records)
    return open_dataset(toy_shards.CONFIG, folder, "train")


def _train(dataset, steps, rows=None, start_step=0, **config):
    iterator = pipeline.train_batches(
        toy_shards.config(**config), dataset, rows, start_step, make_views=toy_shards.plain_views
    )
    try:
        return list(itertools.islice(iterator, steps))
    finally:
        iterator.close()


def _flat(batch: dict, prefix: str = "") -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for key, value in batch.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat


def _assert_same(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b)
    for x, y in zip(map(_flat, a), map(_flat, b), strict=True):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key], err_msg=key)


def _records(batches: list[dict]) -> list[int]:
    return np.concatenate([b["record"] for b in batches]).tolist()


def test_batches_are_deterministic(dataset):
    _assert_same(_train(dataset, 6), _train(dataset, 6))


def test_batches_depend_on_seed(dataset):
    assert _records(_train(dataset, 3)) != _records(_train(dataset, 3, seed=8))


@pytest.mark.parametrize("step, window", [(1, 0), (2, 0), (5, 0), (1, 4), (5, 4)])
def test_resumed_pipeline_has_the_same_batches(dataset, step, window):
    whole = _train(dataset, 7, shuffle_window=window)
    later = _train(dataset, 7 - step, start_step=step, shuffle_window=window)
    _assert_same(whole[step:], later)


@pytest.mark.parametrize("hosts, window", [(2, 0), (4, 0), (2, 4)])
def test_hosts_are_disjoint_and_cover_everything(dataset, hosts, window):
    whole = _train(dataset, 6, shuffle_window=window)
    size = 4 // hosts
    parts = [
        _train(dataset, 6, range(h * size, (h + 1) * size), shuffle_window=window)
        for h in range(hosts)
    ]
    joined = [
        {k: np.concatenate([p[k] for p in step]) for k in step[0]}
        for step in zip(*([_flat(b) for b in part] for part in parts), strict=True)
    ]
    _assert_same([_flat(b) for b in whole], joined)


def test_number_of_hosts_can_change_on_resume(dataset):
    whole = _train(dataset, 5)
    later = _train(dataset, 2, range(2, 4), start_step=3)
    expected = [{k: v[2:4] for k, v in _flat(b).items()} for b in whole[3:]]
    _assert_same(expected, [_flat(b) for b in later])


@pytest.mark.parametrize("data", [{"threads": 1}, {"prefetch": 1}, {"threads": 16, "prefetch": 5}])
def test_batches_are_independent_of_threads(dataset, data):
    _assert_same(_train(dataset, 6), _train(dataset, 6, **data))


def test_batches_are_independent_of_workers(dataset):
    whole = _train(dataset, 5)
    _assert_same(whole, _train(dataset, 5, workers=2))
    windowed = _train(dataset, 5, shuffle_window=4)
    _assert_same(windowed[2:], _train(dataset, 3, start_step=2, workers=1, shuffle_window=4))
    assert _records(windowed) != _records(whole)


def test_spec_is_stable(dataset):
    specs = {
        tuple((k, v.shape, v.dtype) for k, v in sorted(_flat(b).items()))
        for b in _train(dataset, 9)
    }
    assert len(specs) == 1


@pytest.mark.parametrize("window", [0, 4])
def test_each_epoch_has_every_record_once_in_another_order(dataset, window):
    seen = _records(
        _train(dataset, RECORDS, shuffle_window=window)
    )  # four epochs, as a batch has four rows
    epochs = [seen[i * RECORDS : (i + 1) * RECORDS] for i in range(4)]
    assert all(sorted(e) == list(range(RECORDS)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 4


@pytest.mark.parametrize("window", [0, 4])
def test_with_drop_last_each_epoch_is_whole_batches(dataset, window):
    kept = _records(_train(dataset, RECORDS, shuffle_window=window))
    seen = _records(_train(dataset, 8, shuffle_window=window, drop_last=True))
    for epoch in range(4):  # of two batches of four
        held = seen[8 * epoch : 8 * epoch + 8]
        assert held == kept[RECORDS * epoch : RECORDS * epoch + 8]
    resumed = _train(dataset, 3, start_step=5, shuffle_window=window, drop_last=True)
    assert _records(resumed) == seen[20:]


def test_fewer_records_than_batch_are_refused_with_drop_last(dataset):
    with pytest.raises(UserError, match=r"^data\.drop_last is true, and 3 records"):
        pipeline.train_batches(toy_shards.config(drop_last=True), dataset, records=np.arange(3))


def test_random_choices_depend_on_seed_epoch_record_and_stream_alone(dataset):
    choices: dict[tuple[int, int], list[tuple]] = {}
    for seed in (7, 8):
        for batch in _train(dataset, RECORDS, seed=seed):
            for record, noise in zip(batch["record"], batch["noise"], strict=True):
                choices.setdefault((seed, int(record)), []).append(tuple(noise))
    assert all(len(set(c)) == 4 for c in choices.values())  # one for each epoch
    flat = [n for c in choices.values() for pair in c for n in pair]
    assert len(set(flat)) == len(flat)


def test_every_start_is_drawn_with_synchronous_sound(dataset):
    starts: dict[int, set[int]] = {}
    for batch in _train(dataset, 100):
        gray = batch["video"]["global"]["pixels"][:, :, 0, 0, 0].astype(int)
        first = np.rint((gray[:, 0] - 2) / 4).astype(int)
        np.testing.assert_allclose(gray, gray[:, :1] + 4 * np.arange(4), atol=1)
        columns = batch["audio"]["global"]["log_mel"]
        np.testing.assert_array_equal(columns[:, 0, 0], first * toy_shards.COLUMNS_PER_FRAME)
        for record, start in zip(batch["record"], first, strict=True):
            starts.setdefault(int(record), set()).add(int(start))
    for record in range(RECORDS):
        possible = set(range(len(dataset[record].frames) - 4 + 1))
        assert starts[record] <= possible
        assert starts[record] == possible or len(possible) > 5


def test_batches_have_records_and_labels(dataset):
    batch = _train(dataset, 1)[0]
    assert batch["record"].dtype == batch["label"].dtype == np.int64
    for record, label in zip(batch["record"], batch["label"], strict=True):
        assert dataset[int(record)].label == label


def test_only_records_of_a_subset_are_read(dataset):
    iterator = pipeline.train_batches(
        toy_shards.CONFIG, dataset, records=np.array([2, 5, 9]), make_views=toy_shards.plain_views
    )
    seen = _records(list(itertools.islice(iterator, 3)))
    assert sorted(seen[:3]) == sorted(seen[3:6]) == [2, 5, 9]


def _evaluate(dataset, rows=None, **options):
    return list(
        pipeline.eval_batches(
            toy_shards.config(**options.pop("config", {})), dataset, rows,
            make_views=toy_shards.plain_views, **options,
        )
    )  # fmt: skip


def test_evaluation_is_in_order_and_pads_last_batch(dataset):
    batches = _evaluate(dataset)
    assert [len(b["record"]) for b in batches] == [4, 4, 4]
    valid = np.concatenate([b["valid"] for b in batches])
    assert valid.tolist() == [True] * 11 + [False]
    assert np.array(_records(batches))[valid].tolist() == list(range(RECORDS))
    for batch in batches:
        for i in np.flatnonzero(batch["valid"]):
            start = (len(dataset[int(batch["record"][i])].frames) - 4) // 2
            assert batch["audio"]["global"]["log_mel"][i, 0, 0] == 2 * start


def test_several_clips_of_a_record_are_spread_over_it(dataset):
    batches = _evaluate(dataset, clips=3)
    valid = np.concatenate([b["valid"] for b in batches])
    assert valid.sum() == 3 * RECORDS
    clip = np.concatenate([b["clip"] for b in batches])[valid]
    assert clip.tolist() == [0, 1, 2] * RECORDS
    starts = np.concatenate([b["audio"]["global"]["log_mel"][:, 0, 0] for b in batches])[valid]
    last = [2 * (len(dataset[i].frames) - 4) for i in range(RECORDS)]
    assert starts[2::3].tolist() == last


def test_evaluation_may_start_at_any_batch(dataset):
    _assert_same(_evaluate(dataset, clips=2)[3:], _evaluate(dataset, start_step=3, clips=2))


def test_augmented_clips_are_those_of_epochs_of_training(dataset):
    passed = list(
        pipeline.augmented_batches(
            toy_shards.CONFIG, dataset, None, 2, clips=3, make_views=toy_shards.plain_views
        )
    )
    records = np.array(_records(passed))
    assert records[:25].tolist() == [i // 3 for i in range(8, 33)]
    noises = {tuple(n) for n in np.concatenate([b["noise"] for b in passed])[:25]}
    assert len(noises) == 25
    trained = _train(dataset, -(-3 * RECORDS // 4))
    assert noises <= {tuple(n) for b in trained for n in b["noise"]}


def test_hosts_evaluate_disjoint_rows(dataset):
    whole = _evaluate(dataset)
    parts = [_evaluate(dataset, [h]) for h in range(4)]
    for step, batch in enumerate(whole):
        for host in range(4):
            _assert_same(
                [{k: v[host : host + 1] for k, v in _flat(batch).items()}],
                [_flat(parts[host][step])],
            )


def test_batches_may_have_one_modality(dataset):
    batch = _evaluate(dataset, modalities=("audio",))[0]
    assert "video" not in batch
    batch = _evaluate(dataset, modalities=("video",))[0]
    assert "audio" not in batch


def test_batches_may_have_several_labels_per_record(tmp_path):
    metadata = dataclasses.replace(toy_shards.METADATA, multi_label=True)
    records = [
        dataclasses.replace(toy_shards.record(0), label=-1, labels=labels)
        for labels in ((0, 2), (), (1,))
    ]
    folder = toy_shards.write(tmp_path, records, metadata)
    batch = _evaluate(open_dataset(toy_shards.CONFIG, folder, "train"))[0]
    by_record = [[1, 0, 1], [0, 1, 0], [0, 0, 0]]  # shards take records in turn
    assert batch["labels"].tolist() == [*by_record, [0, 0, 0]]
    assert "label" not in batch


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_record_is_named(tmp_path, workers):
    records = [toy_shards.record(0), Record(id="no frames")]
    folder = toy_shards.write(tmp_path, records)
    opened = open_dataset(toy_shards.CONFIG, folder, "train")
    with pytest.raises(UserError, match=r"00001-of-00002, record 0, has no video"):
        _train(opened, 3, workers=workers)


def test_closing_frees_descriptors(dataset):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(5):
        _train(dataset, 1)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_default_views_have_the_shapes_of_the_config(dataset):
    """The default views of training and evaluation."""
    iterator = pipeline.train_batches(toy_shards.CONFIG, dataset)
    batch = _flat(next(iterator))
    iterator.close()
    assert batch["video/global/frames"].shape == (4, 4, 16, 22, 3)
    assert batch["video/local/frames"].shape[:3] == (4, 1, 2)
    assert batch["audio/global/log_mel"].shape == (4, 8, 8)
    assert batch["audio/local/log_mel"].shape == (4, 1, 8, 4)
    plain = _flat(next(pipeline.eval_batches(toy_shards.CONFIG, dataset)))
    assert plain["video/global/frames"].shape == (4, 4, 16, 16, 3)
