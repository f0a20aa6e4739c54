"""Settings of runs and evaluations.

The names that config files use can be imported from here.
"""

from data_pipelines.loader_config import (
    MODALITIES,
    AudioAugment,
    AudioConfig,
    DataConfig,
    Modality,
    VideoAugment,
    VideoConfig,
)
from xkd_jax.config.architecture import HeadConfig, ModelConfig
from xkd_jax.config.loss_settings import LossConfig, LossWeights, TemperatureConfig
from xkd_jax.config.pretraining import (
    CheckpointConfig,
    Config,
    MeshConfig,
    NonfiniteConfig,
    OptimizerConfig,
    ProbeConfig,
    default,
    resolve,
)

__all__ = [
    "MODALITIES",
    "AudioAugment",
    "AudioConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "HeadConfig",
    "LossConfig",
    "LossWeights",
    "MeshConfig",
    "Modality",
    "ModelConfig",
    "NonfiniteConfig",
    "OptimizerConfig",
    "ProbeConfig",
    "TemperatureConfig",
    "VideoAugment",
    "VideoConfig",
    "default",
    "resolve",
]
