"""Random parameters without compilation."""

import jax
import numpy as np

from xkd_jax.config.pretraining import Config
from xkd_jax.method.train_state import abstract, parameters
from xkd_jax.networks.student import Student
from xkd_jax.networks.tree import path_names


def random_student(config: Config, seed: int = 0):
    """Student parameters drawn by NumPy: small kernels, norms near 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = 0.1 * rng.normal(size=leaf.shape)
        return (noise + (path_names(path)[-1] == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(
        draw, parameters(abstract(Student, config.architecture))
    )
