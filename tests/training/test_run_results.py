"""Result files that belong to a run."""

import json

import pytest
from result_contents import result_content

from data_pipelines.errors import UserError
from xkd_jax.training.run_results import evaluations, result_files


def content(source, **changes):
    return result_content(checkpoint={"source": str(source), "step": 7}) | changes


def write(folder, values):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(values))
    return folder / "result.json"


def test_results_beside_a_run_belong_to_it_if_they_name_it(tmp_path):
    run = tmp_path / "run[1]"
    (run / "checkpoints").mkdir(parents=True)
    own = [
        write(tmp_path / "run[1]_knn_video", content(run)),
        write(tmp_path / "run[1]_svm" / "deep", content(run / "checkpoints")),
        write(tmp_path / "run[1]_z", content("", checkpoint={"directory": f"{run}/checkpoints"})),
    ]
    write(tmp_path / "run[1]_other", content(tmp_path / "run"))
    write(tmp_path / "elsewhere", content(run))
    write(tmp_path / "run[1]_damaged", ["x"])
    assert result_files(run) == result_files(run / "checkpoints") == own
    (run.parent / "link").symlink_to(run)
    assert result_files(run.parent / "link") == []  # the names do not begin with the link's


def test_results_are_read_and_malformed_ones_refused(tmp_path):
    (tmp_path / "run").mkdir()
    write(tmp_path / "run_a", content(tmp_path / "run"))
    (found,) = evaluations(tmp_path / "run")
    assert (found.benchmark, found.value, found.step, found.chance) == ("ucf101", 70.04, 7, None)
    write(tmp_path / "run_b", content(tmp_path / "run", value="much"))
    with pytest.raises(UserError, match=r"run_b/result\.json is not a result .*value is 'much'"):
        evaluations(tmp_path / "run")
