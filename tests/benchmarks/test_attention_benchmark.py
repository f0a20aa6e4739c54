import json
import sys

import pytest

from benchmarks import attention as benchmark
from xkd_jax.networks import attention


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(benchmark, "LENGTHS", (9,))
    monkeypatch.setattr(benchmark, "ALL_LENGTHS", ((2, 8),))
    monkeypatch.setattr(benchmark, "ONE_LENGTH", ())
    monkeypatch.setattr(benchmark, "ROUNDS", 1)


def run(monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "argv", ["attention", "--batch=2", *flags])
    with pytest.raises(SystemExit) as end:
        benchmark.main()
    return end.value.code, json.loads(capsys.readouterr().out)


def test_formula_compared_with_itself_passes(short, monkeypatch, capsys):
    status, (record,) = run(monkeypatch, capsys)
    assert status == 0
    assert record["tokens"] == 9
    assert 0 < record["xla_value_error"] < 0.02


def test_kernel_that_attends_to_the_added_token_ends_with_status_1(short, monkeypatch, capsys):
    monkeypatch.setattr(
        attention, "cudnn_of_first", lambda qkv, n: attention.plain(qkv, qkv.shape[1:2])
    )
    status, (record, added) = run(monkeypatch, capsys, "--kernel=cudnn")
    assert status == 1
    assert record["cudnn_value_error"] > 5 * record["xla_value_error"]
    assert not added["added_token_reaches_no_other"]
    assert added["largest_gradient_of_added_token"][0] > 0


def test_kernel_with_another_scale_ends_with_status_1(short, monkeypatch, capsys):
    monkeypatch.setitem(
        attention.KERNELS, "cudnn", lambda qkv, segments: attention.plain(1.1 * qkv, segments)
    )
    monkeypatch.setattr(benchmark, "added_token", lambda *_: {"within_tolerance": True})
    status, (record, _) = run(monkeypatch, capsys, "--kernel=cudnn")
    assert status == 1
    assert not record["within_tolerance"]
