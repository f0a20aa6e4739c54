"""Networks in NumPy with the interface of `Student` and `Teacher`, for tests of the objective.

Each part is a different function for each modality and for student and teacher, and compiles
nothing. A view is [batch, tokens, WIDTH] and is its own patches.
"""

from types import SimpleNamespace
from unittest import mock

import jax.numpy as jnp
import numpy as np
from numpy_networks import softmax

from xkd_jax.networks.student import Student

WIDTH, HEADS, OUTPUTS = 4, 2, 3
MODALITIES = ("video", "audio")


class Reference:
    """The functions of one network, float64: `seed` makes them different."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.kernel = {m: rng.normal(size=(WIDTH, WIDTH)) for m in MODALITIES}
        self.head = {m: rng.normal(size=(WIDTH, OUTPUTS)) for m in MODALITIES}
        self.decoder = {m: rng.normal(size=(WIDTH, WIDTH)) for m in MODALITIES}
        self.query = {m: rng.normal(size=(WIDTH, HEADS)) for m in MODALITIES}

    def encode(self, m, view, keep=None):
        """Tokens [batch, 1 + n, WIDTH]; CLS is far from all others."""
        tokens = np.tanh(np.asarray(view, np.float64) @ self.kernel[m])
        if keep is not None:
            tokens = np.take_along_axis(tokens, np.asarray(keep)[:, :, None], axis=1)
        return np.concatenate([9 + tokens[:, :1], tokens], axis=1)

    def attention(self, m, view):
        return 0.9 * softmax(np.moveaxis(np.asarray(view, np.float64) @ self.query[m], 1, 2))

    def project(self, m, features):
        return 0.3 * np.asarray(features, np.float64) @ self.head[m]

    def decode(self, m, latent, restore):
        """The kept tokens at their places, and -1 at those of the removed ones."""
        kept, places = np.asarray(latent, np.float64)[:, 1:], np.asarray(restore)
        filled = np.concatenate([kept, -np.ones((*places.shape, WIDTH))], axis=1)
        return np.take_along_axis(filled, places[:, :, None], axis=1) @ self.decoder[m]


def patches(m, view):
    return np.asarray(view, np.float64) * {"video": 2.0, "audio": 3.0}[m]


def stand_in(cls, seed):
    """A `Student` or `Teacher` that computes what `Reference(seed)` does, in float32."""
    reference = Reference(seed)

    def narrow(function, m):
        return lambda *args: jnp.asarray(np.float32(function(m, *args)))

    network = mock.NonCallableMagicMock(spec=cls)
    encoders = mock.MagicMock(
        side_effect=lambda m, view, keep=None: jnp.asarray(
            np.float32(reference.encode(m, view, keep))
        )
    )
    encoders.encode_views = lambda m, views: [encoders(m, *view) for view in views]
    encoders.embeddings = {m: SimpleNamespace(patches=narrow(patches, m)) for m in MODALITIES}
    encoders.with_cls_attention = lambda m, view: (
        jnp.asarray(np.float32(reference.encode(m, view))),
        jnp.asarray(np.float32(reference.attention(m, view))),
    )
    network.encoders = encoders
    network.heads = {m: narrow(reference.project, m) for m in MODALITIES}
    if cls is Student:
        network.decoders = {m: narrow(reference.decode, m) for m in MODALITIES}
    return network
