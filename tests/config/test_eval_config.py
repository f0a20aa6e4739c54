import dataclasses
import importlib
from pathlib import Path

import pytest

from configs.eval import knn, retrieval
from data_pipelines.errors import UserError
from xkd_jax.config import evaluation as eval_config
from xkd_jax.evaluate import evaluation
from xkd_jax.inference import run_checkpoint
from xkd_jax.training.checkpoints.run_record import RunRecord

UNUSABLE = {
    "checkpoint": "/gs/run",
    "features": "ftp://host/features",
    "seed": -1,
    "step": -1,
    "clips.size": -8,
    "clips.view": "corner",
    "clips.video.area": (5.0, 9.0),
    "clips.audio.volume": -0.1,
    "data.prefetch": -1,
    "data.threads": -2,
    "data.workers": -2,
    "mesh.data": 0,
    "knn.temperature": 0.0,
    "svm.max_iterations": 0,
    "svm.tolerance": 0.0,
    "svm.costs": (float("nan"),),
    "train_fraction": 0.0,
    "data.held_out": 1.0,
    "batch_size": 0,
    "clips.test": 0,
    "save.keep_last": -1,
    "fit.learning_rate": 0.0,
    "fit.final_learning_rate": -1e-6,
    "fit.epochs": float("nan"),
    "fit.warmup_epochs": -1.0,
    "fit.weight_decay": -0.1,
    "fit.b2": 1.0,
    "fit.layer_decay": 1.5,
    "fit.dropout": 1.0,
    "fit.accumulation_steps": 7,
    "fit.augment.cutmix_axes": "width_time",
    "fit.augment.mix_group": 5,
    "fit.augment.erase": 1.5,
    "fit.augment.magnitude": 11.0,
    "fit.augment.mixup": -1.0,
}


@pytest.mark.parametrize("key", UNUSABLE)
def test_invalid_values_are_refused(key):
    raw = eval_config.default()
    raw.update_from_flattened_dict({"protocol": "finetune", key: UNUSABLE[key]})
    named = key if not key.startswith("mesh") else "mesh"
    with pytest.raises(UserError, match=rf"^{named} is .*: give [^\n]+\.$"):
        eval_config.resolve(raw)


def test_empty_costs_are_refused_and_empty_folds_accepted():
    raw = eval_config.default()
    raw.svm.costs = ()
    with pytest.raises(UserError, match=r"^svm\.costs is \(\): give one or more values above 0\.$"):
        eval_config.resolve(raw)
    assert eval_config.resolve(eval_config.default()).data.folds == ()


@pytest.mark.parametrize("parts,group", [(1, 8), (4, 16), (8, 8)])
def test_batch_is_divisible_by_parts_and_groups(parts, group):
    raw = eval_config.default()
    raw.update_from_flattened_dict(
        {"protocol": "finetune", "fit.accumulation_steps": parts, "fit.augment.mix_group": group}
    )
    assert eval_config.resolve(raw).fit.accumulation_steps == parts
    raw.fit.augment.mix_group = 2 * raw.batch_size // parts
    with pytest.raises(UserError, match=r"^fit\.augment\.mix_group is .*: give a divisor of the"):
        eval_config.resolve(raw)


@pytest.mark.parametrize(
    "name,batch,parts",
    [("k400_linear:linear", 1024, 4), ("finetune:k400", 96, 1), ("finetune:ucf101", 96, 1),
     ("finetune:hmdb51", 96, 1), ("finetune:esc50", 64, 1), ("finetune:fsd50k", 128, 1)],
)  # fmt: skip
def test_batch_sizes_are_totals_over_the_authors_nodes(name, batch, parts):
    module, variant = name.split(":")
    raw = importlib.import_module(f"configs.eval.{module}").get_config(variant)
    config = eval_config.resolve(raw)
    assert (config.batch_size, config.fit.accumulation_steps) == (batch, parts)


def test_unused_settings_of_retrieval_are_refused():
    raw = retrieval.get_config()
    raw.train_fraction = 0.1
    with pytest.raises(
        UserError, match=r"train_fraction is 0\.1.*'retrieval'.*give --config\.train_fraction=1"
    ):
        eval_config.resolve(raw)


@pytest.mark.parametrize("folds", [(1, 2, 3, 4, 5), (2,)])
def test_knn_with_official_folds(checkpoint, esc50, tmp_path, folds):
    raw = knn.get_config("audio")
    changes = {"checkpoint": str(checkpoint), "network": "log_mel", "knn.k": 3}
    data = {"data.dir": esc50, "data.train_split": "all", "data.folds": folds}
    raw.update_from_flattened_dict(changes | data)
    found = evaluation.evaluate(eval_config.resolve(raw), tmp_path)
    assert [fold["value"] for fold in found["per_fold"]] == [100.0] * len(folds)
    assert [fold["test_records"] for fold in found["per_fold"]] == [4] * len(folds)


def test_missing_keys_of_older_checkpoint_are_reported(small):
    lines = []

    def read(values):
        wording = run_checkpoint.Wording("RUN", "step=N")
        record = RunRecord.of(values, 8, "")
        return run_checkpoint.saved_config(record, Path("run"), wording, lines.append)

    values = dataclasses.asdict(small)
    assert read(values) == small
    assert lines == []
    del values["audio"]["local_views"]
    read(values)
    assert "was written without audio.local_views: their defaults are used" in lines[0]
