"""Runs of one modality, video or audio: shards, checkpoint and evaluation."""

import dataclasses
import json

import html_page
import jax
import miniatures
import noise_shards
import numpy as np
import pytest
from method_inputs import change, with_weights

from data_pipelines import preview
from data_pipelines.errors import UserError
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.evaluation import EvalDataConfig
from xkd_jax.config.length import Length
from xkd_jax.evaluate import evaluation
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.report.clip_sections import Amounts
from xkd_jax.report.page import page
from xkd_jax.training import train as training
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.checkpoints.run_record import RunRecord


@pytest.fixture(scope="module", params=["video", pytest.param("audio", marks=pytest.mark.heavy)])
def modality(request):
    return request.param


@pytest.fixture(scope="module")
def config(small, modality, tmp_path_factory):
    """One block, two steps and probes, on shards of one modality."""
    folder = str(tmp_path_factory.mktemp("shards"))
    config = change(
        small,
        model={"size": "16/1/2:8/1/2"},
        audio={"hop": 250},
        data={
            "dir": noise_shards.write(folder, modalities=(modality,)),
            "short_side": 16,
            "threads": 2,
        },
        probe={"enabled": True, "k": 5},
    )
    config = dataclasses.replace(config, modalities=(modality,), max_steps=2, log_every=1)
    return with_weights(config, **{f"reconstruct_{modality}": 1.0})


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    training.train(config, folder)
    return folder


@pytest.fixture(scope="module")
def shards_of_both(tmp_path_factory):
    return noise_shards.write(str(tmp_path_factory.mktemp("both")))


def evaluate(config, run, workdir, modality, protocol="knn"):
    data = EvalDataConfig(dir=config.data.dir, train_split="train", test_split="test", threads=2)
    settings = {"protocol": protocol, "modality": modality, "data": data}
    return evaluation.evaluate(miniatures.evaluation(run, "", **settings), workdir)


def test_page_of_a_run_shows_its_modality_alone(run, modality):
    root = html_page.parse(page([run], [], Amounts(encoded=12, data=1, reconstructed=1, queries=1)))
    titles = [heading.text for heading in root.all("h3")]
    assert f"Nearest neighbors: {modality}" in titles
    assert f"Features of {modality}" in titles
    other = {"video": "audio", "audio": "video"}[modality]
    assert not any(other in title for title in titles)
    assert bool(root.all("video")) == (modality == "video")


def test_a_run_probes_and_saves_its_modality_alone(config, run, modality):
    scores = json.loads((run / "results.json").read_text())["linear_probe_top1"]
    assert scores["after"].keys() == {f"student {modality}", f"teacher {modality}"}
    assert min(scores["after"].values()) > 80
    created = training.run_of(config, Length(2, 3), mesh_lib.make_mesh(config.mesh))
    digest = open_dataset(config, config.data.dir, "train").digest
    with Checkpoints(run / "checkpoints", config, 24, digest) as checkpoints:
        state = checkpoints.restore(created.like)
    assert int(state.step) == 2
    assert state.centers == {}
    assert state.student["heads"].keys() == state.teacher["heads"].keys() == {modality}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.student))


def test_its_checkpoint_is_evaluated_in_its_modality(config, run, modality, tmp_path):
    content = evaluate(config, run, tmp_path / "knn", modality)
    assert content["value"] > 80
    assert content["pretraining"]["modalities"] == (modality,)


def test_other_networks_are_refused(config, run, modality, shards_of_both, tmp_path):
    (other,) = {"video", "audio"} - {modality}
    on_both = change(config, data={"dir": shards_of_both})
    words = (
        rf"modalities {modality} and has no network of {other}: give --config\.modality={modality}"
    )
    with pytest.raises(UserError, match=words):
        evaluate(on_both, run, tmp_path / "other", other)
    with pytest.raises(UserError, match=r"no network of \w+: give a run of both"):
        evaluate(on_both, run, tmp_path / "pairs", "both", "retrieval")


def test_shards_without_a_required_modality_are_refused(small, config, modality, tmp_path):
    (other,) = {"video", "audio"} - {modality}
    whole = dataclasses.replace(config, modalities=("video", "audio"))
    remedy = rf"has no {other}: build it again with .*=video,audio .*:reconstruction_{modality}"
    with pytest.raises(UserError, match=remedy):
        training.train(whole, tmp_path)
    with pytest.raises(
        UserError, match=rf"has no {other}: build it again with --modalities={other}"
    ):
        open_dataset(dataclasses.replace(config, modalities=(other,)), config.data.dir, "train")


def test_preview_shows_the_available_modality(config, modality, shards_of_both):
    alone = preview.preview(config, open_dataset(config, config.data.dir, "train"), records=2)
    both = dataclasses.replace(config, modalities=("video", "audio"))
    beside = preview.preview(both, open_dataset(both, shards_of_both, "train"), records=2)
    assert 0 < alone.shape[1] < beside.shape[1]


def test_modality_read_alone_equals_that_read_with_the_other(config, modality, shards_of_both):
    both = dataclasses.replace(config, modalities=("video", "audio"))
    batches = []
    for reading in (both, config):
        rows = pipeline.train_batches(reading, open_dataset(reading, shards_of_both, "train"))
        batches.append(next(rows))
        rows.close()
    assert set(batches[1]) & {"video", "audio"} == {modality}
    for key in ("record", "label"):
        np.testing.assert_array_equal(batches[0][key], batches[1][key])
    for view in ("global", "local"):
        drawn, alone = (batch[modality].get(view, {}) for batch in batches)
        assert drawn.keys() == alone.keys()
        # around a box the canvas is left as it was, and sound alone is cut at other times
        for key in drawn.keys() - {"frames", "log_mel"}:
            np.testing.assert_array_equal(drawn[key], alone[key])


def test_a_record_of_an_earlier_version_is_of_both_modalities(small):
    now = {m: RunRecord.of(dataclasses.asdict(c), 8, "") for m, c in {
        "both": small, "video": dataclasses.replace(small, modalities=("video",)),
    }.items()}  # fmt: skip
    content = RunRecord.verified(now["both"].to_json())
    del content["config"]["modalities"]
    before = RunRecord.from_json(content, "x")
    before.refuse_other(now["both"], "x")
    with pytest.raises(UserError, match="another modalities"):
        before.refuse_other(now["video"], "x")
