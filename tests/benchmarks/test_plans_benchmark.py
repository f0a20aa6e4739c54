"""The command that makes the tables of docs/scaling.md, without compilers."""

import json

import pytest
from plans_made_up import plan

from benchmarks import plans

FIRST = plans.CASES[0]


@pytest.fixture
def planned(monkeypatch):
    """Plans with given numbers; returns the list of cases that were planned."""
    asked = []

    def make(config, where):
        asked.append(str(where))
        return plan(config, where)

    monkeypatch.setattr(plans, "make_plan", make)
    return asked


def test_cases_differ_and_their_configs_fit_their_devices():
    assert len({str(case) for case in plans.CASES}) == len(plans.CASES)
    for case in plans.CASES:
        config = case.config()
        assert config.batch_size % plans.targets.parse(case.devices).chips == 0
        assert f"--plan={case.devices} " in case.flags


def test_file_is_completed_case_by_case(planned, monkeypatch, tmp_path):
    file = tmp_path / "plans.json"
    monkeypatch.setattr(plans, "CASES", plans.CASES[:3])
    plans.main([f"--output={file}", f"--only={FIRST}"])
    assert planned == [FIRST.devices]
    plans.main([f"--output={file}"])
    plans.main([f"--output={file}"])
    assert planned == [case.devices for case in plans.CASES]
    found = json.loads(file.read_text())
    assert list(found) == [str(case) for case in plans.CASES]


def test_cases_of_an_older_program_are_planned_again(planned, monkeypatch, tmp_path):
    file = tmp_path / "plans.json"
    monkeypatch.setattr(plans, "CASES", plans.CASES[:1])
    plans.main([f"--output={file}"])
    monkeypatch.setattr(plans, "versions", lambda: {"code": "newer", "jax": "1"})
    plans.main([f"--output={file}"])
    assert planned == [FIRST.devices] * 2


def test_tables_have_both_scales_and_name_what_is_missing(planned, monkeypatch, tmp_path, capsys):
    file = tmp_path / "plans.json"
    monkeypatch.setattr(plans, "CASES", plans.CASES[:2])
    plans.main([f"--output={file}"])
    monkeypatch.undo()
    capsys.readouterr()
    plans.main([f"--table={file}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "### base"
    tpu = next(line for line in lines if line.startswith("| `v5e:1x1` | 16 | "))
    gpu = next(line for line in lines if line.startswith("| `h100:8` | 512 | "))
    assert "50.0 (" in tpu
    assert "100.0 (" in tpu
    assert gpu.split(" | ")[-2] == ""  # no cycles
    assert all(line.count("|") == lines[2].count("|") for line in (tpu, gpu))
    assert lines[-1].startswith("* Not planned yet: base on v5e:16x16, ")


@pytest.mark.parametrize("content", ["", "[]", '{"a": {}}', '{"a": 1}'])
def test_other_files_are_refused(content, tmp_path, capsys):
    file = tmp_path / "plans.json"
    file.write_text(content)
    with pytest.raises(SystemExit) as ended:
        plans.main([f"--table={file}"])
    assert ended.value.code == 2
    assert "give another file" in capsys.readouterr().err


def test_devices_without_a_case_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        plans.main([f"--output={tmp_path}/a.json", "--only=v9:1"])
    assert "is not planned here: give one of base on v5e:1x1, " in capsys.readouterr().err
