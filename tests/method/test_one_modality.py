"""Networks, state and objective of a run of one modality."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_objective
import pytest
from method_inputs import make_inputs, mask_noise, schedules_of, with_weights
from numpy_networks import decode, encode, patches
from random_parameters import random_student

from xkd_jax.method.objective import objective
from xkd_jax.method.state_shardings import abstract_state, describe
from xkd_jax.method.train_state import abstract, module_of, parameters
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.networks.tree import path_names
from xkd_jax.parallel.mesh import make_mesh
from xkd_jax.training.compiled_run import optimizer_of

MODALITIES = ("video", "audio")


@pytest.fixture(params=MODALITIES)
def modality(request):
    return request.param


@pytest.fixture
def config(small, modality):
    config = dataclasses.replace(small, modalities=(modality,))
    return with_weights(config, **{f"reconstruct_{modality}": 0.7})


def paths(tree):
    return {path_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_networks_have_no_parameters_of_others(small, config, modality):
    (other,) = set(MODALITIES) - {modality}
    for cls in (Student, Teacher):
        found = paths(parameters(abstract(cls, config.architecture)))
        both = paths(parameters(abstract(cls, small.architecture)))
        assert found == {path for path in both if other not in path}


def test_the_state_has_nothing_of_others(config, modality):
    (other,) = set(MODALITIES) - {modality}
    plan = schedules_of(config)
    assert plan.teacher_temperature.keys() == {modality}
    state = abstract_state(config.architecture, optimizer_of(config, plan))
    assert state.centers == {}
    leaves = jax.tree_util.tree_leaves_with_path(state)
    assert not any(other in jax.tree_util.keystr(path) for path, _ in leaves)
    assert any(modality in jax.tree_util.keystr(path) for path, _ in leaves)


def test_a_device_holds_nothing_of_others(small, config, modality):
    mesh = make_mesh(small.mesh)

    def trained(run):
        return float(describe(run.architecture, mesh).partition("trained")[2].split()[0])

    big = {"size": "tiny"}
    of_one, of_both = (
        trained(dataclasses.replace(run, model=dataclasses.replace(run.model, **big)))
        for run in (config, small)
    )
    assert 0 < of_one < 0.6 * of_both


def test_objective_equals_float64_numpy(config, modality, make_views):
    views = {modality: make_views(config)[modality]}
    student = random_student(config)
    inputs = make_inputs(config, views)

    @jax.jit
    def run(student):
        teacher = teacher_counterpart(student, config.architecture)
        return objective(
            module_of(Student, student, config.architecture),
            module_of(Teacher, teacher, config.architecture),
            {}, {modality: jnp.float32(0.1)}, inputs, config.loss,
        )  # fmt: skip

    outputs = run(student)
    assert outputs.terms.keys() == {f"reconstruct_{modality}"}
    assert not outputs.teachers
    assert not outputs.targets
    view = np.asarray(views[modality]["global"], np.float64)
    settings, order = config.modality(modality), np.argsort(mask_noise(config, 8)[modality], axis=1)
    kept = round(order.shape[1] * (1 - settings.mask_ratio))
    student64 = jax.tree.map(lambda a: np.asarray(a, np.float64), student)
    latent, _ = encode(student64["encoders"], modality, view, config, keep=order[:, :kept])
    removed = np.ones(order.shape, bool)
    np.put_along_axis(removed, order[:, :kept], False, axis=1)
    expected = numpy_objective.reconstruction(
        patches(view, settings.patch, channels=modality == "video"),
        decode(student64["decoders"][modality], latent, order, kept),
        removed,
    )
    np.testing.assert_allclose(outputs.loss, expected, rtol=2e-4)
