import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractDevice

from configs import demo
from xkd_jax.config import pretraining
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.compiler import compiler_options
from xkd_jax.training import compiled_run


def test_only_nvidia_gpus_have_options():
    def options(platform, kind):
        return compiler_options(AbstractDevice(device_kind=kind, num_cores=1, platform=platform))

    assert options("gpu", "NVIDIA H100 80GB HBM3")["xla_gpu_autotune_level"] == "0"
    assert not options("gpu", "AMD Instinct MI300X")
    assert not options("tpu", "TPU v5 lite")
    assert not options("cpu", "cpu")


def test_the_step_is_compiled_with_the_options_of_its_device(monkeypatch):
    monkeypatch.setattr(compiled_run, "compiler_options", lambda device: {f"of_{device.id}": True})
    config = pretraining.resolve(demo.get_config())
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[1:2])
    run = compiled_run.Run.create(
        lambda state, _: (state, {}), optax.sgd(0.1), config.architecture, config.length(64), mesh,
        seed=0, batch_size=8, split=False,
    )  # fmt: skip
    lowered = run.step.lower(run.like, jnp.zeros(8))
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option: 'of_1'"):
        lowered.compile()
