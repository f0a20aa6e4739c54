import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from result_contents import result_content

from configs import ablations
from configs.eval import (
    finetune,
    hmdb51,
    k400_linear,
    kinetics_sound,
    knn,
    low_shot,
    retrieval,
    ucf101,
)
from data_pipelines.build.catalogs import CATALOGS
from data_pipelines.errors import UserError
from xkd_jax.config import pretraining
from xkd_jax.config.ablations import ABLATIONS
from xkd_jax.config.benchmarks import BENCHMARKS, BenchmarkRecord
from xkd_jax.config.loss_settings import LossConfig
from xkd_jax.evaluate import result
from xkd_jax.report import __main__ as report
from xkd_jax.report import evaluation_results, published, result_tables

ROOT = Path(__file__).parents[2]


def _tables(folder, *contents):
    for number, content in enumerate(contents):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "result.json").write_text(json.dumps(content))
    return result_tables.markdown(evaluation_results.load([str(folder)]))


def test_tables_have_published_numbers(tmp_path, capsys):
    folds = [{"value": 69.0, "top1_held_out_cost": 68.0}, {"value": 71, "top1_held_out_cost": 70.0}]
    _tables(
        tmp_path / "a" / "deep",
        result_content(variant="mas", per_fold=folds, data={"name": "ucf101", "left_out": {}}),
    )
    _tables(
        tmp_path / "b", result_content(finetune.get_config("k400"), data={"name": "kinetics400"})
    )
    _tables(tmp_path / "c", result_content(low_shot.get_config("5")))
    arguments = [str(tmp_path / name) for name in ("a", "b", "c", "a/deep", "b/0/result.json")]
    assert report.main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        "| ucf101 | ucf101 | svm | video | all | mas student, base | 9 |"
        " 70.0 top-1 (69.0 with the held-out cost) | 69.0, 71.0 | 81.7 (K400) |"
    ) in printed
    assert (
        "| k400 | kinetics400 | finetune | video | all | xkd student, base | 9 | 70.0 top-1 |  |"
        " 77.6 (K400), 80.1 (AudioSet) |"
    ) in printed
    assert "| k400 (5 %) |  | svm |" in printed
    assert printed.index("## Linear") < printed.index("## Finetuning") < printed.index("## Few")
    assert printed.endswith("\n\nResults read: 3.\n")
    assert "[1]" not in printed


@pytest.mark.parametrize(
    "losses,number",
    [
        ("reconstruction_video", "76.1 (K400; 84.7 with all losses)"),
        ("reconstruction", "76.3 (K400; 84.7 with all losses)"),
        ("distillation", "76.3 (K400; 84.7 with all losses)"),
        ("alignment", "77.8 (K400; 84.7 with all losses)"),
        ("no_refinement", "79.3 (K400; 82.6 with refinement)"),
    ],
)
def test_ablation_has_its_published_number(tmp_path, losses, number):
    changed = ablations.select(pretraining.default(), losses).to_dict()
    untrained = result_content(keys={"network": "untrained"}, pretraining=changed)
    found = _tables(tmp_path, result_content(pretraining=changed), untrained)
    assert f"| xkd student, base | 9 | 70.0 top-1 |  | {number} |" in found
    assert "| ucf101 |  | svm | video |  | xkd untrained, base | 9 | 70.0 top-1 |  |  |" in found


@pytest.mark.parametrize(
    "losses,name",
    [
        ({"weights.reconstruct_video": 0.0, "weights.reconstruct_audio": 0.0},
         "all but reconstruct_video, reconstruct_audio"),
        ({"weights.distill_audio_to_video": 0.0}, "all but distill_audio_to_video"),
        ({"teacher_view": "local"}, "all, local teacher view"),
        ({"refinement": "softmax"}, "all, softmax refinement"),
        ({"weights.align_students": 0.0, "weights.align_teachers": 0.0},
         "all but align_students, align_teachers"),
        ({"weights.align_students": 0.0, "weights.align_teachers": 0.0, "refinement": "none",
          "weights.reconstruct_audio": 0.0, "weights.distill_video_to_audio": 0.0},
         "only reconstruct_video, distill_audio_to_video, no refinement"),
    ],
)  # fmt: skip
def test_other_losses_are_named_without_published_number(tmp_path, losses, name):
    raw = pretraining.default()
    raw.loss.update_from_flattened_dict(losses)
    found = _tables(tmp_path, result_content(pretraining=raw.to_dict()))
    assert f"| video | {name} | xkd student, base | 9 | 70.0 top-1 |  |  |" in found


@pytest.mark.parametrize(
    "raw,keys,changes,note",
    [
        (ucf101, {"data.folds": (1,), "clips.test": 1}, {},
         "clips.test is 1, data.folds is [1]"),
        (ucf101, {"protocol": "linear"}, {}, "protocol is linear"),
        (ucf101, {"network": "teacher"}, {}, "the network is the teacher"),
        (ucf101, {}, {"size": "24/2/2:16/1/2"}, "its size is 24/2/2:16/1/2"),
        (hmdb51, {"output": "head"}, {}, "output is head"),
        (k400_linear, {"fit.epochs": 1.0, "batch_size": 8}, {},
         "batch_size is 8, fit.epochs is 1.0"),
    ],
)  # fmt: skip
def test_other_protocol_or_network_has_no_published_number(tmp_path, raw, keys, changes, note):
    found = _tables(tmp_path, result_content(raw.get_config(), keys, **changes))
    assert "| 70.0 top-1 |  | [1] |" in found
    assert found.endswith(f"\n\n[1] Not as in the published protocol and network: {note}.")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_has_catalog_and_config_for_each_published_number(name):
    record = BENCHMARKS[name]
    assert {evaluation for evaluation, _, _ in record.published} <= record.configs.keys()
    if record.data_set not in ("", "spoken_digits"):  # made, not built from files
        assert record.data_set in CATALOGS
    for evaluation, file in record.configs.items():
        standard = published.standard_config(file.format(modality="video", output="head"))
        assert standard.benchmark == name
        # A result of the file's own settings differs in nothing.
        own = json.loads(json.dumps(dataclasses.asdict(standard)))
        assert published.differences(own, evaluation) == []
        assert published.differences(own | {"protocol": "other"}, evaluation) == [
            "protocol is other"
        ]
    measured = {modality for _, modality, _ in record.published}
    assert measured >= record.ablations.keys() | record.refinements.keys()


def test_every_evaluation_config_belongs_to_a_benchmark():
    files = {path.stem for path in (ROOT / "configs" / "eval").glob("*.py")} - {"__init__"}
    named = {file.partition(":")[0] for r in BENCHMARKS.values() for file in r.configs.values()}
    assert named == files


def test_new_benchmark_is_one_record_and_one_config(tmp_path, monkeypatch):
    record = BenchmarkRecord(
        configs={"linear": "ucf101"}, published={("linear", "video", "K400"): {"xkd": 12.5}}
    )
    monkeypatch.setitem(BENCHMARKS, "new", record)
    assert "| 12.5 (K400) |" in _tables(tmp_path / "a", result_content(benchmark="new"))
    found = _tables(tmp_path / "b", result_content(keys={"benchmark": "new"}))
    assert "benchmark is new" in found


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablation_of_config_file_equals_that_of_table(name):
    raw = ablations.select(pretraining.default(), name)
    assert pretraining.resolve(raw).loss == ABLATIONS[name].of(LossConfig())
    assert published.losses(pretraining.resolve(raw).loss) == ABLATIONS[name].title


def test_settings_without_effect_are_not_differences(tmp_path):
    keys = {
        "checkpoint": "runs/x", "data.dir": "shards", "data.threads": 3, "batch_size": 512,
        "mesh.fsdp": 2, "seed": 3, "fit.epochs": 3.0, "features": "f", "save.every_steps": 5,
    }  # fmt: skip
    assert "| 83.8 (K400), 88.4 (AudioSet) |" in _tables(tmp_path, result_content(keys=keys))


def test_svm_on_all_of_kinetics_has_no_published_number(tmp_path):
    found = _tables(tmp_path, result_content(low_shot.get_config(), {"train_fraction": 1.0}))
    assert "51.4" not in found
    assert "protocol is svm" in found


def test_rows_name_settings_that_differ(tmp_path):
    found = _tables(
        tmp_path,
        result_content(retrieval.get_config("head")),
        result_content(retrieval.get_config("encoder")),
        result_content(knn.get_config(), data={"name": "ucf101"}),
        result_content(knn.get_config(), data={"name": "hmdb51"}),
        result_content(knn.get_config(), {"knn.k": 5}),
        result_content(low_shot.get_config("10")),
        result_content(low_shot.get_config("10"), {"protocol": "knn"}),
    )
    rows = [line for line in found.splitlines() if "70.0 top-1" in line]
    assert len(set(rows)) == 7
    assert "[1] Not as in the file in configs/eval: knn.k is 5." in found


def test_further_metrics_follow_in_parentheses(tmp_path):
    top5 = result_content(per_fold=[{"value": 70, "top5": 90.0}, {"value": 70.08, "top5": 91.0}])
    recalls = {
        **{f"video_to_audio_recall_{k}": 10.0 * k for k in (1, 5, 10)},
        **{f"audio_to_video_same_class_recall_{k}": 10.0 * k for k in (1, 5)},
    }
    both = result_content(
        retrieval.get_config(), metric="recall at 1", per_fold=[{"value": 1} | recalls]
    )
    found = _tables(tmp_path, top5, both)
    assert "| 70.0 top-1 (top-5 90.5) | 70.0, 70.1 |" in found
    expected = "video to audio 10.0, 50.0, 100.0 at 1, 5, 10; audio to video same class 10.0, 50.0"
    assert f"| 70.0 recall at 1 ({expected} at 1, 5) |" in found
    assert result.line(top5) == (
        "ucf101, svm, video, student: top-1 70.04 % (folds 70.00, 70.08); top-5 90.50"
    )


def test_incomplete_data_set_is_marked(tmp_path):
    data = {"name": "ucf101", "left_out": {"missing": 2, "unreadable": 1}}
    found = _tables(tmp_path, result_content(data=data), result_content(data=data))
    assert found.count("| 70.0 top-1 [1] |  | 83.8 (K400), 88.4 (AudioSet) |") == 2
    assert found.endswith("|\n\n[1] 3 files of the data set were left out.")


@pytest.mark.parametrize(
    "changes,fault",
    [
        ({"protocol": "ridge"}, "protocol is 'ridge'"),
        ({"train_fraction": "all"}, "train_fraction is 'all'"),
        ({"per_fold": []}, "over 0 folds"),
        ({"per_fold": None}, "NoneType"),
        ({"per_fold": [{"fold": 1}]}, "it lacks 'value'"),
        ({"per_fold": [{"value": "70"}]}, "folds is '70'"),
        ({"per_fold": [{"value": 70, "top5": "x"}]}, "must be real number"),
        ({"value": "70"}, "value is '70'"),
        ({"value": float("nan")}, "value is nan"),
        ({"benchmark": None}, "benchmark is None"),
        ({"pretraining": {"loss": {"weights": [1]}}}, r"loss\.weights is \[1\]"),
        ({"config": {}}, "it lacks 'output'"),
        ({"data": []}, "'list'"),
    ],
)
def test_damaged_result_is_refused_in_one_sentence(tmp_path, changes, fault, capsys):
    with pytest.raises(UserError, match=rf"0/result\.json is not a result .*{fault}") as error:
        _tables(tmp_path, result_content(kinetics_sound.get_config(), **changes))
    assert "\n" not in str(error.value)
    assert report.main([str(tmp_path)]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["[]", '{"benchmark": "ucf101"}', "{", "\x00", "3"])
def test_file_that_is_not_a_result_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is not a result of an evaluation"):
        evaluation_results.load([str(tmp_path / "x.json")])
    with pytest.raises(UserError, match=r"has no result\.json"):
        evaluation_results.load([str(tmp_path)])
    assert report.main([str(tmp_path / "nowhere")]) == 2


def test_tables_are_printed_without_jax():
    code = "import sys, xkd_jax.report.__main__; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
