"""The training state and its shardings, with a network of a few arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from xkd_jax.config.architecture import HeadConfig, ModelConfig
from xkd_jax.config.pretraining import Config, MeshConfig
from xkd_jax.method import state_shardings as shardings
from xkd_jax.method import train_state as states
from xkd_jax.method.random_streams import INITIALIZE, stream_key
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.parallel import mesh as mesh_lib

ARCHITECTURE = Config(
    model=ModelConfig(variant="mas", head=HeadConfig(outputs=6), compute_dtype="float32")
).architecture
RULES = (
    "batch -> data x fsdp, pair_rows -> data, pair_columns -> fsdp, embed -> fsdp, heads -> tensor,"
    " mlp -> tensor, outputs -> tensor, bottleneck -> -, patch -> -, norm -> -, layers -> -"
)


class Layer(nnx.Module):
    def __init__(self, rngs, shape, axes, name="kernel"):
        value = jnp.zeros(shape) + jax.random.key_data(rngs.params())[-1] % 1000
        setattr(self, name, nnx.Param(value, out_sharding=axes))


class SmallTeacher(Teacher):
    def __init__(self, architecture, *, rngs):
        assert architecture == ARCHITECTURE
        blocks = {m: Layer(rngs, (8, 4), ("embed", "mlp")) for m in ("video", "audio")}
        self.encoders = nnx.Dict({"blocks": nnx.Dict(blocks)})
        self.heads = nnx.Dict({"audio": Layer(rngs, (6,), (None,))})


class SmallStudent(Student):
    def __init__(self, architecture, *, rngs):
        assert architecture == ARCHITECTURE
        blocks = {"shared": Layer(rngs, (8, 4), ("embed", "mlp"))}
        self.encoders = nnx.Dict({"blocks": nnx.Dict(blocks)})
        self.heads = nnx.Dict({"audio": Layer(rngs, (6,), (None,))})
        self.decoders = nnx.Dict({"video": Layer(rngs, (3, 8), ("bottleneck", "embed"))})


class Counting(SmallStudent):
    """A network with a variable that is not a parameter."""

    def __init__(self, architecture, *, rngs):
        super().__init__(architecture, rngs=rngs)
        self.count = nnx.Variable(jnp.zeros(()))


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setattr(states, "Student", SmallStudent)
    monkeypatch.setattr(shardings, "Student", SmallStudent)
    monkeypatch.setattr(shardings, "Teacher", SmallTeacher)


@pytest.fixture
def mesh():
    return mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def initial(seed=0):
    return states.initial_state(stream_key(seed, INITIALIZE), ARCHITECTURE, optax.adam(0.1))


def test_initial_state_has_copied_teachers_and_zero_counters():
    state = initial()
    assert state.step.dtype == jnp.int32
    assert (state.step.shape, int(state.step)) == ((), 0)
    assert state.centers.keys() == {"video_to_audio", "audio_to_video"}
    for center in state.centers.values():
        assert (center.shape, center.dtype) == ((6,), np.float32)
        assert not center.any()
    # The optimizer's state is that of the student.
    assert jax.tree.structure(state.optimizer[0].mu) == jax.tree.structure(state.student)
    # Each modality's teacher is a copy of the shared student's blocks, in arrays that differ.
    own = state.student["encoders"]["blocks"]["shared"]["kernel"]
    assert state.teacher.keys() == {"encoders", "heads"}
    for m in ("video", "audio"):
        copy = state.teacher["encoders"]["blocks"][m]["kernel"]
        np.testing.assert_array_equal(copy, own)
        assert copy.unsafe_buffer_pointer() != own.unsafe_buffer_pointer()


def test_parameters_follow_from_key():
    first, again, other = (
        initial(seed).student["decoders"]["video"]["kernel"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_networks_can_be_created_in_mesh_without_their_axes(mesh):
    with jax.set_mesh(mesh):
        made = states.construct(SmallStudent, ARCHITECTURE, jax.random.key(0))
        shapes = states.abstract(SmallStudent, ARCHITECTURE)
    assert made.decoders["video"].kernel.shape == (3, 8)
    leaves = jax.tree.leaves(states.parameters(shapes))
    assert leaves
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_parameters_and_module_of_are_inverse():
    made = states.construct(SmallStudent, ARCHITECTURE, jax.random.key(0))
    params = states.parameters(made)
    assert params.keys() == {"encoders", "heads", "decoders"}
    changed = jax.tree.map(lambda leaf: leaf + 1, params)
    again = states.module_of(SmallStudent, changed, ARCHITECTURE)
    assert isinstance(again, SmallStudent)
    found = states.parameters(again)
    assert jax.tree.structure(found) == jax.tree.structure(changed)
    jax.tree.map(np.testing.assert_array_equal, found, changed)


def test_variables_other_than_parameters_are_omitted(mesh):
    made = states.construct(Counting, ARCHITECTURE, jax.random.key(0))
    assert states.parameters(made).keys() == {"encoders", "heads", "decoders"}
    found = shardings.parameter_shardings(Counting, ARCHITECTURE, mesh)
    assert specs(found) == STUDENT_SPECS


def test_advance_sets_only_counters():
    state = initial()
    later = states.advance(state, 7)
    assert (later.step.dtype, int(later.step)) == (np.int32, 7)
    assert int(later.optimizer[0].count) == 7
    assert later.step.sharding == state.step.sharding
    jax.tree.map(np.testing.assert_array_equal, later.student, state.student)
    jax.tree.map(np.testing.assert_array_equal, later.optimizer[0].mu, state.optimizer[0].mu)
    assert states.is_count(jnp.uint8(1))
    assert not states.is_count(jnp.bfloat16(1))


def test_advance_keeps_sharding_of_counters(mesh):
    whole = jax.NamedSharding(mesh, jax.P())
    state = jax.device_put(initial(), whole)
    later = states.advance(state, 7)
    assert later.step.sharding == later.optimizer[0].count.sharding == whole


def specs(tree):
    assert all(isinstance(leaf, jax.NamedSharding) for leaf in jax.tree.leaves(tree))
    return jax.tree.map(lambda leaf: tuple(leaf.spec), tree)


STUDENT_SPECS = {
    "encoders": {"blocks": {"shared": {"kernel": ("fsdp", "tensor")}}},
    "heads": {"audio": {"kernel": (None,)}},
    "decoders": {"video": {"kernel": (None, "fsdp")}},
}
TEACHER_SPECS = {
    "encoders": {"blocks": {m: {"kernel": ("fsdp", "tensor")} for m in ("video", "audio")}},
    "heads": {"audio": {"kernel": (None,)}},
}


def test_parameters_are_sharded_by_their_axes(mesh):
    found = shardings.parameter_shardings(SmallStudent, ARCHITECTURE, mesh)
    assert specs(found) == STUDENT_SPECS
    assert {leaf.mesh for leaf in jax.tree.leaves(found)} == {mesh}


def kernel_spec(shape, axes, sizes, *, stacked=False, split=True):
    """The spec of a kernel on a mesh of these sizes of data, fsdp and tensor."""

    class One(nnx.Module):
        def __init__(self):
            layer = nnx.Dict({"kernel": Layer(nnx.Rngs(0), shape, axes)})
            self.blocks = nnx.Dict({"layers" if stacked else "heads": layer})

    module = states.abstract_module(One)
    abstract = jax.sharding.AbstractMesh(sizes, ("data", "fsdp", "tensor"))
    options = {"split": True} if split else {}
    found = jax.tree.leaves(shardings.module_shardings(module, abstract, **options))
    return tuple(found[0].spec)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((8, 4), (None, None), ("data", None)),
        ((7, 4), (None, None), (None, "data")),  # the first that is divisible
        ((7, 5), (None, None), (None, None)),
        ((8,), (None,), (None,)),  # no matrix
        ((8, 4), ("embed", None), ("fsdp", "data")),  # divided dimensions come last
        ((8, 7), ("embed", None), (("fsdp", "data"), None)),
        ((6, 7), ("embed", None), ("fsdp", None)),  # 6 is divisible by fsdp, not by both
        ((8, 4), ("embed", "mlp"), (("fsdp", "data"), "tensor")),
        ((6, 8), ("embed", "mlp"), ("fsdp", ("tensor", "data"))),
        ((12, 7), ("batch", None), (("data", "fsdp"), None)),
        ((2, 3, 6), (None, None, None), ("data", None, None)),
    ],
)
def test_matrices_are_divided_over_data(shape, axes, expected):
    assert kernel_spec(shape, axes, (2, 2, 2)) == expected


def test_dimension_of_layers_is_not_divided():
    assert kernel_spec((2, 4, 6), ("layers", None, None), (2, 2, 2), stacked=True) == (
        None, "data", None,
    )  # fmt: skip
    assert kernel_spec((2, 4), ("layers", None), (2, 2, 2), stacked=True) == (None, None)
    assert kernel_spec((2, 3, 5), ("layers", None, None), (2, 2, 2), stacked=True) == (
        None, None, None,
    )  # fmt: skip


def test_matrices_are_whole_along_data_unless_split():
    assert kernel_spec((8, 4), ("embed", None), (2, 2, 2), split=False) == ("fsdp", None)


def test_one_part_of_data_divides_nothing():
    assert kernel_spec((8, 4), ("embed", None), (1, 4, 2)) == ("fsdp", None)


def test_parameters_are_divided_over_two_devices():
    mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=1, tensor=1), jax.devices()[:2])
    params = states.parameters(states.construct(SmallStudent, ARCHITECTURE, jax.random.key(0)))
    with jax.set_mesh(mesh):
        found = jax.jit(lambda tree: shardings.divided(SmallStudent, tree, ARCHITECTURE))(params)
    assert found["decoders"]["video"]["kernel"].sharding.spec == jax.P(None, "data")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_divided_parameters_are_gathered(mesh, dtype):
    """Kernels are rounded to the compute dtype, other parameters are not."""

    class Stacked(SmallStudent):
        def __init__(self, architecture, *, rngs):
            self.encoders = nnx.Dict({"layers": Layer(rngs, (2, 8, 4), ("layers", "embed", "mlp"))})
            self.heads = nnx.Dict(
                {
                    "out": Layer(rngs, (4, 6), (None, None)),
                    "unit": Layer(rngs, (4, 6), (None, None), "directions"),
                    "bias": Layer(rngs, (6,), (None,), "bias"),
                }
            )

    architecture = dataclasses.replace(
        ARCHITECTURE, model=dataclasses.replace(ARCHITECTURE.model, compute_dtype=dtype)
    )
    shapes = states.parameters(states.abstract(Stacked, architecture))
    part = shardings.parameter_shardings(Stacked, architecture, mesh, split=True)
    whole = shardings.parameter_shardings(Stacked, architecture, mesh)
    assert specs(part) == {
        "encoders": {"layers": {"kernel": (None, ("fsdp", "data"), "tensor")}},
        "heads": {
            "out": {"kernel": ("data", None)},
            "unit": {"directions": ("data", None)},
            "bias": {"bias": (None,)},
        },
    }
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf, sharding: jax.device_put(rng.random(leaf.shape, np.float32), sharding),
        shapes, part,
    )  # fmt: skip
    with jax.set_mesh(mesh):
        found = jax.jit(lambda tree: shardings.gathered(Stacked, tree, architecture))(params)
        again = jax.jit(lambda tree: shardings.divided(Stacked, tree, architecture))(found)
    expected = jax.tree.map(np.asarray, params)
    for layer in (expected["encoders"]["layers"], expected["heads"]["out"]):
        rounded = layer["kernel"].astype(dtype).astype(np.float32)
        assert (dtype == "float32") == np.array_equal(rounded, layer["kernel"])
        layer["kernel"] = rounded
    for tree, sharding in ((found, whole), (again, part)):
        jax.tree.map(np.testing.assert_array_equal, tree, expected)
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(np.float32)}
        assert jax.tree.all(
            jax.tree.map(lambda a, s: a.sharding.is_equivalent_to(s, a.ndim), tree, sharding)
        )


def test_nothing_is_moved_without_mesh():
    params = states.parameters(states.construct(SmallStudent, ARCHITECTURE, jax.random.key(0)))
    assert shardings.gathered(SmallStudent, params, ARCHITECTURE) is params
    assert shardings.divided(SmallStudent, params, ARCHITECTURE) is params


def test_state_is_sharded_like_its_parameters(mesh):
    transformation = optax.adam(0.1)
    found = shardings.state_shardings(ARCHITECTURE, mesh, transformation)
    assert specs(found.student) == STUDENT_SPECS
    assert specs(found.teacher) == TEACHER_SPECS
    assert specs(found.optimizer[0].mu) == specs(found.optimizer[0].nu) == STUDENT_SPECS
    assert specs(found.optimizer[0].count) == ()
    assert specs(found.step) == ()
    assert specs(found.centers) == {"video_to_audio": (), "audio_to_video": ()}
    assert {leaf.mesh for leaf in jax.tree.leaves(found)} == {mesh}
    shapes = shardings.abstract_state(ARCHITECTURE, transformation)
    assert jax.tree.structure(shapes) == jax.tree.structure(found)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    same = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), initial())
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == same


def test_split_state_is_sharded_like_its_parameters(mesh):
    found = shardings.state_shardings(ARCHITECTURE, mesh, optax.adam(0.1), split=True)
    kernel = (("fsdp", "data"), "tensor")
    student = {
        "encoders": {"blocks": {"shared": {"kernel": kernel}}},
        "heads": {"audio": {"kernel": (None,)}},
        "decoders": {"video": {"kernel": (None, ("fsdp", "data"))}},
    }
    assert specs(found.student) == student
    assert specs(found.optimizer[0].mu) == specs(found.optimizer[0].nu) == student
    assert specs(found.teacher) == {
        "encoders": {"blocks": {m: {"kernel": kernel} for m in ("video", "audio")}},
        "heads": {"audio": {"kernel": (None,)}},
    }
    assert specs(found.optimizer[0].count) == specs(found.step) == ()


def test_description_has_parameters_and_bytes_per_device(mesh, monkeypatch):
    class Large(Counting):
        def __init__(self, architecture, *, rngs):
            super().__init__(architecture, rngs=rngs)
            self.decoders["video"] = Layer(rngs, (900, 2000), ("bottleneck", "embed"))

    monkeypatch.setattr(shardings, "Student", Large)
    assert shardings.describe(ARCHITECTURE, mesh) == (
        "mesh      data 2 x fsdp 2 x tensor 2 (cpu, 1 process)\n"
        f"sharding  {RULES}\n"
        "trained   1.8 M parameters, 0.9 M on each device"
    )
    assert shardings.describe(ARCHITECTURE, mesh, split=True) == (
        "mesh      data 2 x fsdp 2 x tensor 2 (cpu, 1 process), optimizer split over data\n"
        f"sharding  {RULES}\n"
        "trained   1.8 M parameters, 0.5 M on each device"
    )


def test_networks_have_given_architecture():
    with pytest.raises(AssertionError):
        states.abstract(SmallStudent, dataclasses.replace(ARCHITECTURE, modalities=("audio",)))
