"""One golden case of training steps: its config, schedules, inputs and state."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import (
    MODALITIES,
    AudioConfig,
    LoaderConfig,
    Modality,
    VideoConfig,
)
from xkd_jax.config.architecture import HeadConfig, ModelConfig
from xkd_jax.config.dataclass_schema import build
from xkd_jax.config.loss_settings import LossConfig, LossWeights
from xkd_jax.config.pretraining import Config
from xkd_jax.inference import author_weights
from xkd_jax.method.objective import Inputs
from xkd_jax.method.schedules import Schedules, constant
from xkd_jax.method.train_state import TrainState
from xkd_jax.networks.patches import random_masking
from xkd_jax.parity.golden_file import GoldenFile
from xkd_jax.training.compiled_run import optimizer_of


@dataclasses.dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
      path: of the file, for messages.
      meta: its description: networks, views, losses and optimizer.
      arrays: its other arrays, by name.
    """

    path: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def of(cls, file: GoldenFile) -> Case:
        """Separates the description from the arrays.

        Raises:
          UserError: the description is not a JSON object.
        """
        arrays = dict(file.content)
        try:
            meta = json.loads(arrays.pop("meta").tobytes())
        except ValueError as error:
            raise file.damaged(f"its 'meta' is not JSON ({error})") from None
        if not isinstance(meta, dict):
            raise file.damaged("its 'meta' is not a JSON object")
        return cls(file.path, meta, arrays)

    def group(self, name: str) -> dict[str, np.ndarray]:
        """Returns {name without `name/`: array, of any shape} for names with that prefix."""
        prefix = f"{name}/"
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    def local_views(self, m: Modality) -> int:
        """Number of local views that the file has inputs for."""
        return sum(name.startswith(f"{m}_local_") for name in self.group("in"))


def case_config(case: Case) -> Config:
    """Returns the config that `meta` describes, with compute dtype float32.

    Raises:
      UserError: a value has the wrong type or is not supported.
    """
    meta = case.meta
    video, audio, weights = meta["video"], meta["audio"], meta["weights"]
    stacks = [meta["encoder"], meta["decoder"]]
    if any(stack["mlp_ratio"] != 4 for stack in stacks) or meta["layer_norm_eps"] != 1e-5:
        raise UserError(
            f"{case.path} is not supported: give a case of mlp_ratio 4, layer_norm_eps 1e-5."
        )
    base = Config()
    config = Config(
        model=ModelConfig(
            variant=meta["variant"],
            size=":".join(f"{s['dim']}/{s['depth']}/{s['heads']}" for s in stacks),
            head=HeadConfig(
                layers=meta["head"]["layers"],
                hidden=meta["head"]["hidden_dim"],
                bottleneck=meta["head"]["bottleneck_dim"],
                outputs=meta["head"]["out_dim"],
            ),
            compute_dtype="float32",
        ),
        video=VideoConfig(
            frames=video["frames"],
            size=video["size"],
            patch=tuple(video["patch"]),
            mask_ratio=video["mask_ratio"],
            local_views=case.local_views("video"),
            local_frames=video["local_frames"],
            local_size=video["local_size"],
        ),
        audio=AudioConfig(
            mels=audio["mels"],
            columns=audio["frames"],
            patch=tuple(audio["patch"]),
            mask_ratio=audio["mask_ratio"],
            local_views=case.local_views("audio"),
            local_columns=audio["local_frames"],
        ),
        loss=LossConfig(
            weights=LossWeights(
                **{f"reconstruct_{m}": weights["reconstruction"] / 2 for m in MODALITIES},
                distill_video_to_audio=weights["distillation"] / 2,
                distill_audio_to_video=weights["distillation"] / 2,
                align_students=weights["alignment"] / 2,
                align_teachers=weights["alignment"] / 2,
            ),
            refinement=meta["cross_modal_attention"],
            teacher_view=meta["teacher_view"],
            student_temperature=meta["student_temp"],
            center_momentum=meta["center_momentum"],
        ),
        optimizer=dataclasses.replace(base.optimizer, **meta["adamw"], clip=meta["clip_per_param"]),
        batch_size=meta["batch"],
    )
    return build(Config, dataclasses.asdict(config))


def case_schedules(case: Case) -> Schedules:
    """Returns the schedules that the file has a value of for each step."""

    def table(values: np.ndarray) -> Callable[[Any], jax.Array]:
        constants = jnp.asarray(values, jnp.float32)
        return lambda step: constants[step]

    sched, temperature = case.group("sched"), case.meta["teacher_temp"]
    return Schedules(
        learning_rate=table(sched["lr"]),
        weight_decay=table(sched["wd"]),
        ema=table(sched["ema"]),
        teacher_temperature={m: constant(temperature[m]) for m in MODALITIES},
    )


def case_inputs(case: Case, config: LoaderConfig, step: int) -> Inputs:
    """Returns the file's inputs of one step, from the authors' layout with color first.

    Args:
      case: the file.
      config: the result of `case_config`.
      step: index from 0.
    """
    arrays = {name: value[step] for name, value in case.group("in").items()}

    def view(m: Modality, name: str) -> np.ndarray:
        value = arrays[f"{m}_{name}"]
        return np.moveaxis(value, 1, -1) if m == "video" else value[:, 0]

    views: dict[Modality, dict[str, Any]] = {}
    for m in MODALITIES:
        views[m] = {"global": view(m, "global")}
        if count := config.modality(m).local_views:
            views[m]["local"] = np.stack([view(m, f"local_{i}") for i in range(count)])
    return Inputs(
        views=views,
        masks={
            m: random_masking(jnp.asarray(arrays[f"{m}_mask_noise"]), config.modality(m).mask_ratio)
            for m in MODALITIES
        },
    )


def case_state(case: Case, config: Config, schedules: Schedules) -> TrainState:
    """Returns the training state before the first step, with the file's parameters.

    Raises:
      UserError: a tensor is missing, unknown, or has the wrong shape.
    """
    tensors = dict(case.group("params"))
    for name in author_weights.CENTERS:
        tensors.setdefault(name, np.zeros((1, config.model.head.outputs), np.float32))
    tree = jax.tree.map(
        jnp.asarray, author_weights.load(tensors, case.meta["aliases"], config.architecture)
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        optimizer=optimizer_of(config, schedules).init(tree["student"]),
        **tree,
    )
