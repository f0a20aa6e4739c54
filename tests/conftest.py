"""Shared fixtures: eight CPU devices, one compilation cache, strict ranks, a small config."""

import gc
import os
import shutil
import signal
import tempfile
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
# Halves the compilation time of a step; later versions of JAX have only the slower emitters.
if Version(version("jaxlib")) < Version("0.11"):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

# Implicit rank promotion is an error.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

# pytest-xdist starts its workers from a process that has imported this file: workers, and the
# processes of their tests, share one cache. A folder that is given by the variable is kept.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR"
) or tempfile.mkdtemp(prefix="xkd_jax-programs-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import dataclasses

import jax
import miniatures
import numpy as np
import pytest
import stores
from small_run import SMALL

from data_pipelines import terminal
from data_pipelines.format.storage import Url
from xkd_jax.config.pretraining import Config, MeshConfig

# A shell without job control starts background processes with SIGINT ignored, and children
# inherit that; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests start first, so that all workers end at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Collects garbage less often, and not in modules and tests: saves a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_sessionfinish() -> None:
    """Freezes all objects: the last collections of a worker would take seconds each."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Deletes the compilation cache when the last worker has ended."""
    programs = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if "PYTEST_XDIST_WORKER" not in os.environ and programs.name.startswith("xkd_jax-programs-"):
        shutil.rmtree(programs, ignore_errors=True)


@pytest.fixture(autouse=True)
def signals():
    """Resets signal handlers before each test, as commands in this process set them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    """The URL of a bucket of each store, for the tests of a module."""
    with stores.bucket(request.param) as url:
        yield url


@pytest.fixture(params=["folder", "s3", "gs"])
def workdir(request, tmp_path):
    """A path that does not exist, in a folder and in a bucket of each store."""
    if request.param == "folder":
        yield tmp_path / "run"
        return
    with stores.bucket(request.param) as url:
        yield Url(url) / tmp_path.name / "run"


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
    return miniatures.checkpoint(tmp_path_factory.mktemp("pretrained"), small)


@pytest.fixture(scope="session")
def esc50(tmp_path_factory):
    """Shards of `miniatures.esc50`."""
    return miniatures.esc50(tmp_path_factory.mktemp("ESC-50"))


@pytest.fixture(scope="session")
def ucf101(tmp_path_factory):
    """Shards of `miniatures.ucf101`."""
    return miniatures.ucf101(tmp_path_factory.mktemp("UCF101"))


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, in seconds: clock[0] = 12.0."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    terminal.print_text("begin")  # when the interval without a line begins
    return now
