"""The report of a soak: its figures, and the comparison of its runs."""

from pathlib import Path

import numpy as np
import pytest
import tensorboardX

from benchmarks import result_file
from benchmarks.soak import __main__ as command
from benchmarks.soak import faults, saved
from benchmarks.soak.process_faults import FLIPPED
from benchmarks.soak.record import Record
from benchmarks.soak.report import Comparison, lines, measure

KEPT = Path(__file__).parents[2] / "docs" / "measurements"


@pytest.mark.parametrize(
    "expected,found,text,equal",
    [
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, "2 compared, 0 differ, 0 missing", True),
        ({"a": np.nan}, {"a": np.nan}, "1 compared, 0 differ, 0 missing", True),
        ({"a": 0.0}, {"a": -0.0}, "1 compared, 1 differ, 0 missing (such as a)", False),
        ({1: 1.0, 2: 2.0}, {1: 1.0}, "1 compared, 0 differ, 1 missing (such as 2)", False),
        ({1: 1.0}, {1: 1.0, 2: 2.0}, "1 compared, 0 differ, 1 missing (such as 2)", False),
        (
            {"a": np.float32(1)}, {"a": np.float64(1)},
            "1 compared, 1 differ, 0 missing (such as a)", False,
        ),
        ({}, {}, "0 compared, 0 differ, 0 missing", False),
    ],
)  # fmt: skip
def test_comparison_is_bitwise(expected, found, text, equal):
    comparison = Comparison.of(expected, found)
    assert str(comparison) == text
    assert comparison.equal is equal


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Two runs of two steps; (changes of the disturbed one) -> results."""

    def make(array=1.0, losses=(0.5, 0.25), steps=(1, 2), event="killed", left=()):
        records = [Record(tmp_path, "alone"), Record(tmp_path, "disturbed")]
        workdirs = (tmp_path / "alone", tmp_path / "disturbed")
        for workdir, values in zip(workdirs, ((0.5, 0.25), losses), strict=True):
            with tensorboardX.SummaryWriter(str(workdir / "tensorboard")) as writer:
                for step, value in enumerate(values, 1):
                    writer.add_scalar("loss", value, step)
        (workdirs[1] / "metrics.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in steps))
        for record in records:
            record.note_memory(1, 700, 200)
        for name in ("started", event, "started", FLIPPED, "worker hung"):
            records[1].note_event(1, name)
        (workdirs[1] / "checkpoints" / "1.damaged").mkdir(parents=True)
        arrays = {"alone": {"w": np.float32(1)}, "disturbed": {"w": np.float32(array)}}
        monkeypatch.setattr(saved, "arrays", lambda workdir, step: arrays[workdir.name])
        return measure("folder", workdirs, 2, *records, left)

    return make


def test_report_has_every_figure(both):
    found = both()
    assert found["passed"]
    text = list(lines(found))
    for line in (
        "| place | a folder |",
        "| result | passed |",
        "| starts | 2 |",
        "| killed | 1 |",
        "| worker hung | 1 |",
        f"| {FLIPPED} | 1 |",
        "| damaged checkpoints detected | 1 |",
        "| faults that did not happen | none |",
        "| unexpected ends | none |",
        "| arrays of the last checkpoint | 1 compared, 0 differ, 0 missing |",
        "| losses | 2 compared, 0 differ, 0 missing |",
        "| lines of metrics.jsonl | 2, each step once, in order |",
        "| peak MB in each quarter, with faults, largest worker | 0, 200, 0, 0 |",
    ):
        assert line in text
    assert f"Python {found['versions']['python']}, JAX {found['versions']['jax']}, " in text[-1]


@pytest.mark.parametrize(
    "fault",
    [
        {"array": 2.0},
        {"losses": (0.5, 0.5)},
        {"losses": (0.5,)},
        {"steps": (1,)},
        {"steps": (1, 1, 2)},
        {"left": ["killed"]},
        {"event": f"{faults.UNEXPECTED}status 1"},
    ],
)
def test_report_of_runs_that_differ_fails(both, fault):
    found = both(**fault)
    assert not found["passed"]
    assert "| result | FAILED |" in lines(found)


def test_kept_report_is_printed(both, tmp_path, capsys):
    found = both()
    result_file.write(tmp_path / "report.json", found)
    capsys.readouterr()
    command.main([f"--table={tmp_path / 'report.json'}"])
    assert capsys.readouterr().out.splitlines() == list(lines(found))


@pytest.mark.parametrize("file", sorted(KEPT.glob("soak-*.json")), ids=lambda file: file.name)
def test_page_has_the_kept_report(file, capsys):
    command.main([f"--table={file}"])
    assert capsys.readouterr().out in (KEPT.parent / "reliability.md").read_text(encoding="utf-8")
