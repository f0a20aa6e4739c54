import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh
from method_inputs import change

from xkd_jax.config.architecture import ModelConfig
from xkd_jax.method.train_state import abstract, module_of, parameters
from xkd_jax.networks.precision import compute_dtype, matmul_precision
from xkd_jax.networks.student import Teacher

CPU = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")
V5E = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")


@pytest.mark.parametrize(
    "asked,device,expected",
    [
        ("auto", CPU, "float32"),
        ("auto", V5E, "bfloat16"),
        ("auto", H100, "bfloat16"),
        ("bfloat16", CPU, "bfloat16"),
        ("float32", V5E, "float32"),
    ],
)
def test_the_platform_decides_the_dtype_of_activations(asked, device, expected):
    assert compute_dtype(ModelConfig(compute_dtype=asked), device) == expected


@pytest.mark.parametrize("device,dtype", [(CPU, "float32"), (V5E, "bfloat16"), (H100, "bfloat16")])
def test_a_network_is_traced_in_the_dtype_of_the_mesh(small, device, dtype):
    architecture = change(small, model={"compute_dtype": "auto", "attention": "xla"}).architecture
    params = parameters(abstract(Teacher, architecture))
    view = jnp.zeros((2, *small.audio.global_shape))

    def tokens(params, view):
        with matmul_precision(architecture.model):
            return module_of(Teacher, params, architecture).encoders("audio", view)

    mesh = AbstractMesh((1, 1, 1), ("data", "fsdp", "tensor"), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.make_jaxpr(tokens)(params, view)
    assert traced.out_avals[0].dtype == dtype
    products = [str(e) for e in traced.eqns if e.primitive.name == "dot_general"]
    assert products
    assert all(("HIGHEST" in text) == (dtype == "float32") for text in products)
    leaves = jax.tree.leaves(params)
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
