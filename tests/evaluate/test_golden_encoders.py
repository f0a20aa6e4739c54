"""Evaluations and runs with files that other projects' code wrote."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_weights import (
    BACKBONE,
    FILES,
    WEIGHTS,
    XKD,
    assert_close,
    color_last,
    features,
    needs_weights,
)

from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.config.initial_weights import InitConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.config.stated_input import StatedAudio, StatedVideo
from xkd_jax.evaluate import pretrained
from xkd_jax.inference import starting_weights
from xkd_jax.parallel.mesh import make_mesh

pytestmark = needs_weights


def stated(keys):
    """Keys of a config, from arguments of `load`."""
    kinds = {"video": StatedVideo, "audio": StatedAudio}
    return {name: kinds[name](**value) if name in kinds else value for name, value in keys.items()}


@pytest.mark.parametrize("file", FILES)
def test_evaluations_compute_the_features_of_the_original_code(file):
    keys, inputs = FILES[file]
    values = features(file)
    config = EvalConfig(
        checkpoint=str(WEIGHTS / file), modality="both" if len(inputs) > 1 else next(iter(inputs)),
        **stated(keys),
    )  # fmt: skip
    source = pretrained.load(config, make_mesh(MeshConfig()))
    for modality, golden in inputs.items():
        encoder = source.network.encoder(modality, source.parameters["encoders"][modality])
        view = jnp.asarray(np.ascontiguousarray(golden.convert(values[golden.view])))
        with jax.default_matmul_precision("highest"):
            found = encoder.pool(encoder(view))
        assert_close(found, values[golden.pooled])


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_runs_start_from_the_authors_networks(small, network):
    video = dataclasses.replace(small.video, frames=4, size=16, patch=(2, 4, 4))
    audio = dataclasses.replace(small.audio, mels=16, columns=64, patch=(4, 8))
    init = InitConfig(
        **{"from": ",".join(str(WEIGHTS / BACKBONE.format(m, network)) for m in ("vid", "aud"))},
        **stated(XKD),
    )
    model = dataclasses.replace(small.model, size="24/2/3:16/1/2")
    config = dataclasses.replace(small, video=video, audio=audio, init=init, model=model)
    values = features("xkd")
    found = starting_weights.read(config.init, config.architecture).values
    for modality, name in (("video", "vid"), ("audio", "aud")):
        keys = {"checkpoint": str(WEIGHTS / BACKBONE.format(name, network)), "modality": modality}
        source = pretrained.load(EvalConfig(**keys, **stated(XKD)), make_mesh(MeshConfig()))
        params = {
            "embedding": found["embeddings"][modality],
            "blocks": found["blocks"][modality],
            "norm": found["norms"][modality],
        }
        encoder = source.network.encoder(modality, jax.tree.map(jnp.asarray, params))
        view = values[f"in/{modality}"]
        view = color_last(view) if modality == "video" else view[:, 0]
        with jax.default_matmul_precision("highest"):
            tokens = encoder(jnp.asarray(np.ascontiguousarray(view)))
        assert_close(tokens, values[f"out/{name}_{network}/tokens"])
