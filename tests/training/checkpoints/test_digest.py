import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.checkpoints.array_digest import digests


def reference(array):
    """The sum of the docstring of `digests`, in Python integers."""
    total = 0
    for i, word in enumerate(np.asarray(array).reshape(-1).view(np.uint32)):
        mix = int(word) ^ (i * 0x9E3779B1 % 2**32)
        mix = (mix ^ (mix >> 16)) * 0x85EBCA6B % 2**32
        mix = (mix ^ (mix >> 13)) * 0xC2B2AE35 % 2**32
        total += mix ^ (mix >> 16)
    return total % 2**32


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4)])
def test_digest_equals_sum_of_hashes(shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert digests({"a": jnp.asarray(array)}) == {"['a']": reference(array)}


def test_flipped_bit_swapped_word_and_zeroed_interval_change_digest():
    words = np.random.default_rng(1).integers(0, 2**32, 6, dtype=np.uint32)
    flipped = [words ^ (np.arange(6) == i) * np.uint32(1 << b) for i in range(6) for b in range(32)]
    changed = [*flipped, words[[1, 0, 2, 3, 4, 5]], words[[5, 1, 2, 3, 4, 0]]]
    found = digests([jnp.asarray(array, np.uint32) for array in (words, *changed)])
    assert len(set(found.values())) == len(changed) + 1
    blank = digests([jnp.ones((64, 64)), jnp.zeros((64, 64)), jnp.ones((64, 64)).at[8:].set(0)])
    assert len(set(blank.values())) == 3


def test_digests_are_independent_of_mesh():
    tree = {"a": {"b": np.arange(64, dtype=np.float32).reshape(8, 8)}, "n": np.int32(3)}
    mesh = mesh_lib.make_mesh(MeshConfig(2, 2, 2))
    for spec in (jax.P(), jax.P("tensor"), jax.P(("data", "fsdp"), "tensor")):
        whole, split = jax.NamedSharding(mesh, jax.P()), jax.NamedSharding(mesh, spec)
        placed = jax.device_put(tree, {"a": {"b": split}, "n": whole})
        expected = {"['a']['b']": reference(tree["a"]["b"]), "['n']": reference(tree["n"])}
        assert digests(placed) == expected
