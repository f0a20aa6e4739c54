"""The first lines of a run."""

import dataclasses

import pytest
from method_inputs import change, with_weights

from xkd_jax.config.pretraining import Config, MeshConfig
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.logs import run_summary


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(MeshConfig())


def told(config, mesh, records=1000, written=None):
    length = config.length(records)
    return "\n".join(run_summary.lines(config, written, records, length, mesh)).splitlines()


def test_first_lines_describe_the_papers_run(mesh):
    lines = told(Config(), mesh, records=240_000)
    for line in (
        "method    xkd (no shared blocks), refinement mean, teacher view global, alignment mmd",
        "video     32 x 112 x 112 in patches of 4 x 16 x 16: 392 tokens, 85% masked, 59 encoded,"
        " 1 local view of 8 x 96 x 96",
        "audio     80 x 448 in patches of 4 x 16: 560 tokens, 80% masked, 112 encoded,"
        " 1 local view of 80 x 112",
        "losses    reconstruct video 2.5 audio 2.5, distill video to audio 0.5 audio to video 0.5,"
        " align students 0.5 teachers 0.5",
        "network   base, float32, attention xla, remat products",
        "mesh      data 8 x fsdp 1 x tensor 1 (cpu, 1 process)",
        "data      240,000 records, batch 256",
        "run       750,000 steps of 937 an epoch",
    ):
        assert line in lines
    assert [line for line in lines if line.startswith("sharding  batch -> data x fsdp, ")]


def test_first_lines_describe_a_variant_and_an_ablation(small, mesh):
    config = change(
        small, model={"variant": "mats"}, loss={"refinement": "none", "teacher_view": "local"},
        video={"local_views": 3}, audio={"local_views": 0},
    )  # fmt: skip
    weights = dataclasses.replace(config.loss.weights, align_students=0.0, align_teachers=0.0)
    config = change(config, loss={"weights": weights})
    lines = told(config, mesh)
    assert lines[0].startswith("method    mats (shared blocks), refinement none, teacher view l")
    assert "3 local views of " in lines[1]
    assert lines[2].endswith(" encoded")
    assert lines[3].endswith("; off: align_students, align_teachers")


@pytest.mark.parametrize(
    "records,sentence",
    [
        (3, "note      3 records are fewer than a batch of 8: every batch repeats some; give"
            " --config.batch_size=3 or less, or more data"),
        (1, "note      1 record is fewer than a batch of 8: every batch repeats some; give"
            " --config.batch_size=1, or more data"),
        (8, None),
    ],
)  # fmt: skip
def test_fewer_records_than_a_batch_are_noted(small, mesh, records, sentence):
    notes = [line for line in told(small, mesh, records) if line.startswith("note")]
    assert notes == ([sentence] if sentence else [])


@pytest.mark.parametrize("steps,short", [(200, True), (599, True), (600, False), (1300, False)])
def test_half_of_the_config_files_steps_are_enough(small, mesh, steps, short):
    config, written = (dataclasses.replace(small, max_steps=n) for n in (steps, 1200))
    lines = told(config, mesh, written=written)
    assert ("1,200 steps are too few to show an effect" in lines[-1]) is short


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_run_of_one_modality_names_no_other(small, mesh, tmp_path, modality):
    config = with_weights(
        dataclasses.replace(small, modalities=(modality,)), **{f"reconstruct_{modality}": 1.0}
    )
    (other,) = {"video", "audio"} - {modality}
    lines = told(config, mesh)
    assert f"method    {modality} only: reconstruction, no cross-modal losses" in lines
    assert f"losses    reconstruct {modality} 1" in lines
    assert not any(other in line or "refinement" in line for line in lines)
    *_, last = run_summary.last_lines(config, None, 8, tmp_path / "run", "shards")
    assert f"--config=configs/eval/knn.py:{modality} " in last
    assert last.endswith(f"run_knn_{modality}")


def test_the_command_that_comes_next_is_for_a_shell(small, tmp_path):
    *_, last = run_summary.last_lines(small, None, 8, tmp_path / "a run", "my shards")
    assert last.startswith(
        "next      python main.py --config=configs/eval/knn.py:video --config.ch"
    )
    assert last.endswith(f" --config.data.dir='my shards' --workdir='{tmp_path}/a run_knn_video'")
