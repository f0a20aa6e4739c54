import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xkd_jax.networks.per_modality import per_modality


class Weight(nnx.Module):
    def __init__(self, rngs):
        self.value = nnx.Param(jax.random.uniform(rngs.params(), (3,)))


def drawn(*modalities):
    rngs = nnx.Rngs(5)
    made = per_modality(lambda _: Weight(rngs), modalities)
    return {m: np.asarray(made[m].value[...]) for m in made}, rngs.params()


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_modality_is_drawn_alike_with_and_without_others(modality):
    both, after_both = drawn("video", "audio")
    alone, after_one = drawn(modality)
    assert alone.keys() == {modality}
    np.testing.assert_array_equal(alone[modality], both[modality])
    assert (both["video"] != both["audio"]).any()
    assert jnp.array_equal(jax.random.key_data(after_both), jax.random.key_data(after_one))
