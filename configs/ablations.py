"""Ablations of the losses, as in the paper's Table 3, for every pretraining config.

| name                   | losses                     | UCF101 / HMDB51 / K400 |
|------------------------|----------------------------|------------------------|
| `reconstruction_video` | video reconstruction       | 76.1 / 51.1 / 30.7     |
| `reconstruction`       | both reconstructions       | 76.3 / 51.2 / 32.2     |
| `distillation`         | both, and distillation     | 76.3 / 51.2 / 32.2     |
| `alignment`            | both, and domain alignment | 77.8 / 51.4 / 33.7     |
| `reconstruction_audio` | audio reconstruction       |                        |
| (none)                 | all                        | 84.7 / 59.3 / 46.4     |

The numbers are the paper's, linear top-1 %. In the paper, `distillation` has no refinement either.
`no_refinement` has all losses without refinement (HMDB51: 55.6, with refinement 58.5).
`reconstruction_video` and `reconstruction_audio` train one modality, on data of that modality.
"""

import ml_collections

from data_pipelines.errors import UserError
from xkd_jax.config.ablations import ABLATIONS


def select(
    config: ml_collections.ConfigDict, name: str, also: tuple[str, ...] = ()
) -> ml_collections.ConfigDict:
    """Applies an ablation to a config and returns it.

    Args:
      config: a pretraining config; changed in place.
      name: name of the ablation.
      also: the caller's other variants, for the message.

    Raises:
      UserError: the ablation does not exist.
    """
    if name not in ABLATIONS:
        known = ", ".join((*also, *ABLATIONS))
        raise UserError(f"The config has no variant {name!r}: give one of {known}.")
    config.modalities = ABLATIONS[name].modalities
    for loss in ABLATIONS[name].without:
        config.loss.weights[loss] = 0.0
    if not ABLATIONS[name].refined:
        config.loss.refinement = "none"
    return config
