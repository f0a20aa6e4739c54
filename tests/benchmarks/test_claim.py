"""Tables of benchmarks.claim: rows, cells, and information of teachers."""

import json
import math
import operator
import os
import signal
import threading
import time

import numpy as np
import pytest
import tensorboardX

from benchmarks import claim, claim_tables, output_folder
from configs import demo
from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES
from xkd_jax.config import pretraining as xkd_config
from xkd_jax.training.logs.event_files import scalars

ROWS = [(table, row) for table, rows in claim.TABLES.items() for row in rows]


@pytest.mark.parametrize("table,row", ROWS)
def test_row_resolves_and_changes_named_settings(table, row):
    variant, settings = claim.TABLES[table][row]
    config = demo.get_config(variant)
    before = xkd_config.resolve(config)
    config.update_from_flattened_dict(settings)
    after = xkd_config.resolve(config)
    for key, value in settings.items():
        get = operator.attrgetter(key)
        assert get(before) != get(after) == value


def test_information_at_end_and_during_run(tmp_path):
    with tensorboardX.SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for step in range(25, 401, 25):
            writer.add_scalar("collapse/audio_teacher_entropy", step / 100, step)
            writer.add_scalar("collapse/audio_teacher_mean_entropy", step / 50, step)
    found = claim_tables.information(tmp_path)
    assert found["video"] == {}
    nats = claim_tables.at_the_end(found["audio"])
    assert math.isclose(nats, (325 + 350 + 375 + 400) / 4 / 100, rel_tol=1e-6)
    eighths = [(2 * i + 1.5) * 25 / 100 for i in range(8)]
    assert np.allclose(claim_tables.over_the_run(found["audio"]), eighths, rtol=1e-6)


def test_cells_of_other_settings_are_refused(tmp_path):
    output_folder.check_same(tmp_path, {"steps": 2400})
    output_folder.check_same(tmp_path, {"steps": 2400})
    with pytest.raises(UserError, match="another --output"):
        output_folder.check_same(tmp_path, {"steps": 1200})


@pytest.mark.parametrize(
    "option, message",
    [
        ("--jobs=0", "--jobs=0: give 1 or more"),
        ("--steps=0", "--steps=0: give 1 or more"),
        ("--seeds=x", "'x': give whole numbers"),
        ("--seeds=0,0", "'0,0': give whole numbers, each once"),
        ("--rows=xkd,xkd", "--rows repeats a row"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, monkeypatch, capsys, option, message):
    monkeypatch.setattr(claim.spoken_digits, "build", pytest.fail)
    with pytest.raises(SystemExit):
        claim.main([f"--output={tmp_path / 'out'}", option])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_failed_data_set_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        claim.main([f"--output={tmp_path / 'out'}", f"--speech_dir={tmp_path / 'absent'}"])
    assert ended.value.code == 2
    assert "speech_dir" in capsys.readouterr().err


def test_finished_cells_are_reused(tmp_path, capsys, monkeypatch):
    def write(path, found):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))

    for seed, top1 in enumerate((60.0, 62.0)):
        cell = tmp_path / f"distillation-{seed}"
        top1 = {f"{n} {m}": top1 for n in claim_tables.NETWORKS for m in MODALITIES}
        write(cell / claim.PRETRAINED, {"linear_probe_top1": {"after": top1}})
        with tensorboardX.SummaryWriter(str(cell / "tensorboard")) as writer:
            for m in MODALITIES:
                writer.add_scalar(f"collapse/{m}_teacher_entropy", 1.0, 1)
                writer.add_scalar(f"collapse/{m}_teacher_mean_entropy", 1.5, 1)
        recall = {
            f"{a}_to_{b}_same_class_recall_1": 20.0 for a, b in (MODALITIES, MODALITIES[::-1])
        }
        for network in claim_tables.NETWORKS:
            write(cell / "both" / network / claim.RESULT, {"per_fold": [{"value": 70.0}]})
            write(cell / "retrieval" / network / claim.RESULT, {"per_fold": [recall]})
    table = claim.Table("claim", tmp_path, steps=1, speech_dir="", jobs=1)
    monkeypatch.setattr("subprocess.Popen", pytest.fail)
    read: list[str] = []
    monkeypatch.setattr(
        claim_tables, "scalars", lambda cell: read.append(cell.name) or scalars(cell)
    )
    table.make([("distillation", 0)])  # the other cell is in the folder, and so in the table
    row = "| distillation | {} | 2 | 61.0 ± 1.4 | 61.0 ± 1.4 | 70.0 ± 0.0 | 20.0 ± 0.0 | {} |"
    rows = [row.format("student", ""), row.format("teacher", "0.50 ± 0.00, 0.50 ± 0.00")]
    rows.append("| distillation | 0, 1 | 60.0, 62.0 | 60.0, 62.0 | 70.0, 70.0 | 20.0, 20.0 |")
    rows.append(f"| distillation | 0.50 ± 0.00 |{'  |' * 7}")  # one step, in one eighth of the run
    for text in (capsys.readouterr().out, (tmp_path / "table.md").read_text()):
        assert all(row in text for row in rows)
    assert read == ["distillation-0", "distillation-1"]  # and none for the second table


def test_stopped_table_stops_its_runs_and_starts_none(tmp_path, monkeypatch):
    (tmp_path / "main.py").write_text(
        "import pathlib, signal, sys\n"
        "folder = pathlib.Path(sys.argv[2].removeprefix('--workdir='))\n"
        "def stop(*_):\n"
        "    (folder / 'saved').touch()\n"
        "    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "(folder / 'begun').touch()\n"
        "signal.pause()\n"
    )
    monkeypatch.chdir(tmp_path)
    table = claim.Table("claim", tmp_path / "out", steps=1, speech_dir="", jobs=2)
    (tmp_path / "out").mkdir()

    def begun(name="begun"):
        return sorted(path.parent.name for path in tmp_path.glob(f"out/*/{name}"))

    def interrupt():
        while len(begun()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        table.make([("xkd", seed) for seed in range(6)])
    assert begun() == begun("saved") == ["xkd-0", "xkd-1"]
