"""Goodput of runs over several starts, in a folder and in a bucket."""

import contextlib
import json

import noise_shards
import pytest
import tiny_state
from failing_calls import Killed, kill_after

from data_pipelines.errors import StoppedError, UserError
from data_pipelines.format import storage
from data_pipelines.format.storage import Url
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training import train as training
from xkd_jax.training.faults.preemption import Preemption
from xkd_jax.training.logs import event_files, goodput_file
from xkd_jax.training.logs.goodput import CAUSES, Goodput
from xkd_jax.training.logs.metrics_file import FILE

STEPS = 6


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    changes = {"checkpoint.every_steps": 2, "max_steps": STEPS, "pictures_every": 0}
    return noise_shards.config(tmp_path_factory.mktemp("shards"), **changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    tiny_state.use_in_runs(monkeypatch)


@pytest.mark.parametrize("workdir", ["folder", "s3"], indirect=True)
def test_accounts_add_up_over_a_stopped_a_killed_and_a_last_start(
    config, workdir, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "reached", lambda self: True)
        with pytest.raises(StoppedError):
            training.train(config, workdir)
    assert "goodput   " in capsys.readouterr().out
    first = goodput_file.read(workdir)
    assert (first.starts, first.reached, first.seconds["repeated_steps"]) == (1, 1, 0)
    assert first.seconds["restore"] == 0
    with monkeypatch.context() as patch:
        # the batch of step 5: after step 3, and before step 4 is logged
        kill_after(patch, mesh_lib, "put_batch", 3)
        with pytest.raises(Killed):
            training.train(config, workdir)
    assert "goodput   " not in capsys.readouterr().out
    second = goodput_file.read(workdir)
    assert (second.starts, second.reached, second.seconds["repeated_steps"]) == (2, 3, 0)
    assert second.seconds["restore"] > 0
    training.train(config, workdir)
    *_, line, _ = capsys.readouterr().out.splitlines()
    last = goodput_file.read(workdir)
    assert line == f"goodput   {last.described()}"
    assert line.endswith("; 3 starts")
    assert last.seconds["repeated_steps"] > 0  # step 3
    lasted = last.written - first.written + sum(first.seconds.values())
    assert sum(last.seconds.values()) == pytest.approx(lasted, abs=0.1)
    scalars = event_files.scalars(workdir)
    rows = [json.loads(line) for line in storage.read(str(workdir / FILE)).splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(row.keys() - {"step", "time"} == scalars[row["step"]].keys() for row in rows)
    shares = scalars[STEPS]
    assert sum(shares[f"goodput/{cause}"] for cause in CAUSES) == pytest.approx(1)


def test_run_that_has_ended_keeps_its_accounts(config, tmp_path):
    training.train(config, tmp_path)
    before = (tmp_path / goodput_file.FILE).read_bytes()
    training.train(config, tmp_path)
    assert (tmp_path / goodput_file.FILE).read_bytes() == before


@pytest.mark.parametrize(
    "content,reason",
    [
        (b"{", "it is not valid JSON"),
        (b"{}", "it lacks seconds"),
        (b'{"seconds": {"tea": 1}, "starts": 1, "reached": 0, "written": 0}', "tea is unknown"),
    ],
)
def test_unusable_file_is_a_note_and_accounts_begin_again(tmp_path, capsys, content, reason):
    (tmp_path / goodput_file.FILE).write_bytes(content)
    with goodput_file.kept(Goodput(), tmp_path, 0):
        pass
    note, line = capsys.readouterr().out.splitlines()
    assert note.startswith(
        f"note      goodput counts from this start: {tmp_path}/goodput.json can't be used ({reason}"
    )
    assert line.startswith("goodput   0.0% of ")
    assert json.loads((tmp_path / goodput_file.FILE).read_text())["starts"] == 1


def test_unwritable_accounts_are_one_warning_and_do_not_end_the_run(tmp_path, capsys):
    (tmp_path / "run").write_text("a file, not a folder", encoding="utf-8")
    file = goodput_file.GoodputFile(tmp_path / "run", Goodput())
    for step in (1, 2):
        file.write(step, {})
    printed = capsys.readouterr().err
    assert printed.startswith(f"{tmp_path}/run/goodput.json can't be written to (")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("where", ["folder", "memory://goodput"])
def test_accounts_are_read_back(tmp_path, where):
    folder = tmp_path if where == "folder" else Url(where)
    goodput = Goodput()
    with goodput.steps(0):
        goodput.line(3, waited=0.0)
    goodput_file.GoodputFile(folder, goodput).save()
    found = goodput_file.read(folder)
    assert (found.starts, found.reached) == (1, 3)
    assert goodput_file.read(folder / "elsewhere") is None


def begin(workdir, start, error=None):
    """A start of a run at a step, which ends by an error."""
    goodput = Goodput()
    with goodput_file.kept(goodput, workdir, start), goodput.steps(start):
        if error is not None:
            raise error


def test_stops_that_repeat_without_progress_end_with_the_reason(tmp_path):
    for _ in range(3):
        with pytest.raises(StoppedError):
            begin(tmp_path, 5, StoppedError())
    wanted = r"last 3 starts .* stopped on request, and the next one begins at step 5 as they did"
    with pytest.raises(UserError, match=wanted) as refused:
        begin(tmp_path, 5)
    assert refused.value.status == 2
    begin(tmp_path, 5)  # the user has removed the cause


@pytest.mark.parametrize("start,error", [(6, StoppedError), (5, Killed)])
def test_stops_with_progress_or_other_ends_between_are_accepted(tmp_path, start, error):
    for _ in range(2):
        for at, how in ((5, StoppedError), (5, StoppedError), (start, error)):
            goodput = Goodput()
            with (
                contextlib.suppress(how),
                goodput_file.kept(goodput, tmp_path, at),
                goodput.steps(at),
            ):
                goodput_file.GoodputFile(tmp_path, goodput).write(at, {})
                raise how
    begin(tmp_path, 5)
