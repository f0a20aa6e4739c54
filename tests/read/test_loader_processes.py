import dataclasses

import pytest

from data_pipelines.loader_config import DataConfig, LoaderConfig
from data_pipelines.read import loader_processes
from data_pipelines.read.shuffle import OnePass, Shuffle

TB = 1 << 40


@pytest.fixture
def resolved(monkeypatch):
    """(workers, threads) of a number of cores."""

    def resolve(cores, rows=8, clips=10**6, free=TB, **data):
        monkeypatch.setattr(loader_processes, "usable_cores", lambda: cores)
        config = LoaderConfig(data=DataConfig(**data))
        found = loader_processes.resolved(config, rows, clips, free)
        assert dataclasses.replace(found, workers=0, threads=0) == DataConfig(
            **{**data, "workers": 0, "threads": 0}
        )
        return found.workers, found.threads

    return resolve


def test_many_cores_have_workers_and_few_have_threads(resolved):
    assert [resolved(cores) for cores in (1, 4, 7)] == [(0, 16)] * 3
    assert [resolved(cores) for cores in (8, 16, 224)] == [(6, 2), (12, 2), (168, 2)]


def test_workers_that_would_read_few_clips_are_not_started(resolved):
    found = [resolved(64, clips=clips) for clips in (999, 1000, 3500, 16_000)]
    assert found == [(0, 16), (1, 2), (3, 2), (16, 2)]


def test_batches_of_workers_fill_at_most_half_of_the_shared_memory(resolved):
    one = next(free for free in range(0, TB, 1 << 22) if resolved(64, free=free)[0])
    assert resolved(64, free=4 * one)[0] == 4
    assert resolved(64, free=4 * one, rows=16)[0] == 2
    assert resolved(64, free=0) == (0, 16)


def test_given_numbers_are_kept(resolved):
    assert resolved(64, workers=0) == (0, 16)
    assert resolved(1, workers=3, clips=1, free=0) == (3, 2)
    assert resolved(64, threads=5) == (48, 5)
    assert resolved(64, workers=0, threads=1) == (0, 1)


def test_clips_are_those_of_an_epoch_or_a_pass():
    assert OnePass(range(10), 3).clips_of_pass == 30
    assert Shuffle(range(10), [0, 10], 0).clips_of_pass == 10
    assert Shuffle(range(10), [0, 10], 0, count=8).clips_of_pass == 8
