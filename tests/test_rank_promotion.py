"""Arrays of different ranks meet only where the code says how: traced with promotion an error."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest
from flax import nnx

from data_pipelines.loader_config import MODALITIES
from xkd_jax.config import evaluation
from xkd_jax.config.pretraining import Config, MeshConfig
from xkd_jax.evaluate import encoding, fitting, pretrained, svm
from xkd_jax.method.schedules import Length
from xkd_jax.method.train_state import abstract
from xkd_jax.networks.student import Teacher
from xkd_jax.parallel.mesh import batch_sharding, make_mesh
from xkd_jax.planning.plan import abstract_batch
from xkd_jax.training import probe
from xkd_jax.training.compiled_run import Run


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize(
    "variant,refinement,view",
    [("xkd", "mean", "global"), ("mas", "softmax", "local"), ("mats", "none", "global")],
)
def test_training_step_and_probes(small, variant, refinement, view):
    config = dataclasses.replace(
        small,
        model=dataclasses.replace(small.model, variant=variant),
        loss=dataclasses.replace(small.loss, refinement=refinement, teacher_view=view),
        nonfinite=dataclasses.replace(small.nonfinite, action="skip"),
    )
    run = Run.create(config, Length(10, 3), make_mesh(config.mesh))
    batch = abstract_batch(config, run.batch_sharding)
    jax.eval_shape(run.initialize)
    following, _ = jax.eval_shape(run.step, run.like, batch)
    features = jax.eval_shape(
        probe.feature_function(config.architecture, config), following.teacher, batch
    )
    assert features.keys() == set(MODALITIES)


@pytest.mark.parametrize("name", ["finetune:ucf101", "finetune:esc50", "k400_linear:attentive"])
def test_classifiers_and_encoders(name, tmp_path):
    module, _, variant = name.partition(":")
    raw = importlib.import_module(f"configs.eval.{module}").get_config(variant)
    raw.data.dir = str(tmp_path)
    config, pretraining = evaluation.resolve(raw), Config()
    mesh = make_mesh(config.mesh)
    viewing = pretrained.viewing(config, pretraining)
    network = nnx.to_pure_dict(nnx.state(abstract(Teacher, pretraining.architecture), nnx.Param))
    fit = fitting.create_fit(config, pretraining.architecture, viewing, mesh, network, 1000, 50)
    batch = abstract_batch(viewing, batch_sharding(mesh, config.batch_size))
    batch["label"] = jax.ShapeDtypeStruct((config.batch_size,), np.int32)
    jax.eval_shape(fit.step, fit.like, network, batch)
    scores, _ = jax.eval_shape(fit.predict, fit.like.trained, network, batch)
    assert scores.shape == (config.batch_size, 50)
    jax.eval_shape(
        encoding.encoder(config, pretraining.architecture, viewing, mesh), network, batch
    )


def test_support_vector_machines():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(24, 3)), np.arange(24) % 3
    config = evaluation.SvmConfig(costs=(1.0,), max_iterations=2)
    fitted = svm.fit_path(x, labels, 3, config, make_mesh(MeshConfig()))
    assert fitted[1.0].shape == (4, 3)
