import dataclasses
import json

import pytest

from configs import ablations
from xkd_jax import config, report
from xkd_jax.errors import UserError


def _result(folder, **changes):
    content = {
        "benchmark": "ucf101",
        "protocol": "svm",
        "modality": "video",
        "network": "student",
        "variant": "mas",
        "share": 1.0,
        "metric": "top-1",
        "value": 70.04,
        "per_fold": [
            {"value": 69.0, "top1_held_out_cost": 68.0},
            {"value": 71.08, "top1_held_out_cost": 70.0},
        ],
        "checkpoint": {"step": 9},
        "pretraining": dataclasses.asdict(config.Config()),
    } | changes
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(content))


def test_published_numbers_stand_beside_ours(tmp_path, capsys):
    _result(tmp_path / "a" / "deep")
    _result(
        tmp_path / "b",
        benchmark="k400",
        protocol="finetune",
        variant="xkd",
        per_fold=[{"value": 1.0}],
    )
    _result(tmp_path / "c", share=0.05)
    assert report.main([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c")]) == 0
    printed = capsys.readouterr().out
    assert (
        "| ucf101 | video | all | mas student | 9 | 70.0 top-1 (69.0 with the held-out cost)"
        " | 69.0, 71.1 | 81.7 (K400) |"
    ) in printed
    assert (
        "| k400 | video | all | xkd student | 9 | 70.0 top-1 |  | 77.6 (K400), 80.1 (AudioSet) |"
        in printed
    )
    assert "| ucf101 (5 %) |" in printed
    assert printed.index("## Linear") < printed.index("## Finetuning") < printed.index("## Few")


@pytest.mark.parametrize(
    "name,row",
    [
        ("reconstruction_video", "| video reconstruction | xkd student | 9 | 70.0 top-1 |  | 76.1"),
        ("reconstruction", "| reconstruction | xkd student | 9 | 70.0 top-1 |  | 76.3"),
        ("distillation", "| + distillation | xkd student | 9 | 70.0 top-1 |  | 76.3"),
        ("alignment", "| + alignment | xkd student | 9 | 70.0 top-1 |  | 77.8"),
        ("no_refinement", "| all, no refinement | xkd student | 9 | 70.0 top-1 |  | 79.3"),
    ],
)
def test_an_ablation_stands_beside_its_own_number(tmp_path, name, row):
    pretraining = ablations.select(config.default(), name).to_dict()
    changes = {"variant": "xkd", "per_fold": [{"value": 70.04}], "pretraining": pretraining}
    _result(tmp_path / "a", **changes)
    _result(tmp_path / "b", **changes, network="untrained")
    found = report.tables(report.load([str(tmp_path)]))
    assert row + " (K400) |" in found
    assert "| ucf101 | video |  | xkd untrained | 9 | 70.0 top-1 |  |  |" in found


def test_what_is_no_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"benchmark": "ucf101"}')
    with pytest.raises(UserError, match=r"x\.json is no result"):
        report.load([str(tmp_path / "x.json")])
    with pytest.raises(UserError, match=r"has no result\.json"):
        report.load([str(tmp_path)])
    assert report.main([str(tmp_path / "nowhere")]) == 2
