"""One module for each modality of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flax import nnx

from data_pipelines.loader_config import MODALITIES, Modality


def per_modality(
    make: Callable[[Modality], nnx.Module | None], modalities: Sequence[Modality]
) -> nnx.Dict:
    """Returns {modality: its module}.

    Modules of all `MODALITIES` are created, so that the initial parameters of a modality do not
    depend on the other ones; under jit and `nnx.eval_shape`, unused ones need no computation.

    Args:
      make: creates the module of a modality.
      modalities: modalities of the network.
    """
    made = {m: make(m) for m in MODALITIES}
    return nnx.Dict({m: made[m] for m in modalities})
