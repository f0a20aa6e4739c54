"""One module for each modality of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flax import nnx

from data_pipelines.loader_config import MODALITIES, Modality


def per_modality(
    make: Callable[[Modality], nnx.Module | None], modalities: Sequence[Modality]
) -> nnx.Dict:
    """Makes {modality: its module}, for some of the modalities.

    Those of the others are made too and left out, so that the initial parameters of a modality are
    the same whichever others a network has. Under jit and `nnx.eval_shape` they cost nothing.
    """
    made = {m: make(m) for m in MODALITIES}
    return nnx.Dict({m: made[m] for m in modalities})
