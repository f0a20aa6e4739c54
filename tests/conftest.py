"""Eight CPU devices for every test; one small configuration to build on."""

import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import dataclasses

import jax
import numpy as np
import pytest
from small_run import SMALL

from xkd_jax.config.pretraining import Config, MeshConfig
from xkd_jax.method.train_state import abstract, parameters
from xkd_jax.networks.student import Student
from xkd_jax.networks.tree import path_names

# A shell without job control starts what is in the background with SIGINT ignored, and children
# inherit that; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Tests that run the same program again find it compiled."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@pytest.fixture(scope="session")
def small() -> Config:
    """A network of 2 blocks over 16 video and 16 audio tokens, in float32."""
    return dataclasses.replace(SMALL, mesh=MeshConfig(data=8))


@pytest.fixture(scope="session")
def make_views():
    """Random normalized views of a configuration: (config, seed) -> Inputs.views."""

    def make(config: Config, seed: int = 0, batch: int | None = None):
        rng = np.random.default_rng(seed)
        batch = batch or config.batch_size
        views = {}
        for name, color in (("video", (3,)), ("audio", ())):
            view = config.modality(name)
            views[name] = {"global": (batch, *view.global_shape, *color)}
            if view.local_views:
                views[name]["local"] = (view.local_views, batch, *view.local_shape, *color)
        return jax.tree.map(
            lambda shape: rng.normal(size=shape).astype(np.float32),
            views,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    return make


@pytest.fixture(scope="session")
def checkpoint(small, tmp_path_factory):
    """The folder of a run with one checkpoint (`miniatures.checkpoint`)."""
    import miniatures  # which imports this file

    return miniatures.checkpoint(tmp_path_factory.mktemp("pretrained"), small)


@pytest.fixture(scope="session")
def esc50(tmp_path_factory):
    """Shards of `miniatures.esc50`."""
    import miniatures

    return miniatures.esc50(tmp_path_factory.mktemp("ESC-50"))


def random_student(config: Config, seed: int = 0):
    """Student parameters from numpy, which compiles nothing: small kernels, norms near 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = 0.1 * rng.normal(size=leaf.shape)
        return (noise + (path_names(path)[-1] == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, parameters(abstract(Student, config)))


def with_weights(config: Config, **weights: float) -> Config:
    """The configuration with these loss weights, and 0 for all others."""
    zeros = dict.fromkeys(dataclasses.asdict(config.loss.weights), 0.0)
    changed = dataclasses.replace(config.loss.weights, **(zeros | weights))
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, weights=changed))
