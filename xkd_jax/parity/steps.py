"""Comparison of the networks, the losses and the step, on a small network with given parameters."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES, AudioConfig, Modality, VideoConfig
from xkd_jax.config.dataclass_schema import build
from xkd_jax.config.pretraining import Config, HeadConfig, LossConfig, LossWeights, ModelConfig
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.objective import Inputs, ObjectiveOutputs
from xkd_jax.method.optimizer import optimizer
from xkd_jax.method.schedules import Schedules, constant
from xkd_jax.method.train_state import TrainState
from xkd_jax.method.train_step import Metrics, loss_and_gradients, train_step
from xkd_jax.networks.patches import Masking, random_masking
from xkd_jax.parity import author_weights
from xkd_jax.parity.comparison import Comparison, Report, worst
from xkd_jax.parity.golden_file import GoldenFile

# Largest difference over the tensor's largest entry; "change" is the L2 norm of the difference
# over the L2 norm of each tensor's change from first to last.
TOLERANCES = {
    "outputs": 1e-5,
    "losses at step 0": 1e-4,
    "gradients": 5e-4,
    "losses of later steps": 2e-3,
    "final parameters": 5e-4,
    "change of parameters": 2e-3,
}

# The authors' name of each loss, and ours.
_LOSSES = {
    "vid_recon_loss": "reconstruct_video",
    "aud_recon_loss": "reconstruct_audio",
    "as2vs_align_loss": "align_students",
    "vt2at_align_loss": "align_teachers",
    "vt2as_kd_loss": "distill_video_to_audio",
    "at2vs_kd_loss": "distill_audio_to_video",
}
_MEANS = {
    "recon_loss": ("vid_recon_loss", "aud_recon_loss"),
    "cmkd_loss": ("vt2as_kd_loss", "at2vs_kd_loss"),
    "alignment_loss": ("as2vs_align_loss", "vt2at_align_loss"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One file: what it describes in `meta`, and its other arrays."""

    path: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def of(cls, file: GoldenFile) -> Case:
        """Takes the description apart from the arrays.

        Raises:
          UserError: it is no JSON object.
        """
        arrays = dict(file.content)
        try:
            meta = json.loads(arrays.pop("meta").tobytes())
        except ValueError as error:
            raise file.damaged(f"its 'meta' is no JSON ({error})") from None
        if not isinstance(meta, dict):
            raise file.damaged("its 'meta' is no JSON object")
        return cls(file.path, meta, arrays)

    def group(self, name: str) -> dict[str, np.ndarray]:
        """The arrays under `name/`, without it."""
        prefix = f"{name}/"
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    def local_views(self, m: Modality) -> int:
        """Number of local views that the file has inputs for."""
        return sum(name.startswith(f"{m}_local_") for name in self.group("in"))


def training_steps(file: GoldenFile) -> Report:
    """Runs the file's steps and compares every group.

    Raises:
      UserError: the file is damaged, or not supported.
    """
    case = Case.of(file)
    try:
        meta = case.meta
        title = (
            f"{meta['variant']}, teacher view {meta['teacher_view']}, refinement"
            f" {meta['cross_modal_attention']}, {len(case.arrays['losses'])} steps"
        )
        return Report(title, compare(case))
    # what the description lacks or has wrong shows wherever it is used first
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        first_line = str(error).partition("\n")[0]
        raise file.damaged(f"{type(error).__name__}: {first_line}") from error


def case_config(case: Case) -> Config:
    """The configuration that `meta` describes, in float32.

    Raises:
      UserError: a value is of the wrong type, or none of the choices.
    """
    meta = case.meta
    video, audio, weights = meta["video"], meta["audio"], meta["weights"]
    stacks = [meta["encoder"], meta["decoder"]]
    if any(stack["mlp_ratio"] != 4 for stack in stacks) or meta["layer_norm_eps"] != 1e-5:
        raise UserError(f"{case.path}: only mlp_ratio 4 and layer_norm_eps 1e-5 are supported.")
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
    """The file's own values for each step."""

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


def case_inputs(case: Case, config: Config, step: int) -> Inputs:
    """The file's inputs of one step, color last."""
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
    """The training state with the file's parameters."""
    tensors = dict(case.group("params"))
    for name in author_weights.CENTERS:
        tensors.setdefault(name, np.zeros((1, config.model.head.outputs), np.float32))
    tree = jax.tree.map(jnp.asarray, author_weights.load(tensors, case.meta["aliases"], config))
    active = ActiveLosses.of(config.loss.weights)
    transformation = optimizer(config.optimizer, schedules, active)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        optimizer=transformation.init(tree["student"]),
        **tree,
    )


def compare(case: Case) -> list[Comparison]:
    """Runs one case and compares every group."""
    config, schedules = case_config(case), case_schedules(case)
    state = case_state(case, config, schedules)
    before = _exported(state, config)
    inputs = case_inputs(case, config, 0)
    of = functools.partial(loss_and_gradients, config=config, schedules=schedules)
    outputs, gradients = jax.jit(of)(state, inputs)
    losses, state = run(case, config, schedules, state)
    after = _exported(state, config)
    gradients = author_weights.export({"student": gradients}, config)

    expected = [
        dict(zip(case.meta["loss_names"], row, strict=True)) for row in case.arrays["losses"]
    ]
    final = {k: v for k, v in case.group("final").items() if not k.endswith("weight_g")}
    return [
        worst(
            "outputs",
            TOLERANCES["outputs"],
            _largest(case.group("out"), named_outputs(outputs, inputs.masks)),
        ),
        worst("losses at step 0", TOLERANCES["losses at step 0"], _largest(expected[0], losses[0])),
        worst("gradients", TOLERANCES["gradients"], _largest(case.group("grads"), gradients)),
        worst(
            "losses of later steps",
            TOLERANCES["losses of later steps"],
            _largest(_by_step(expected), _by_step(losses)),
        ),
        worst("final parameters", TOLERANCES["final parameters"], _largest(final, after)),
        worst(
            "change of parameters",
            TOLERANCES["change of parameters"],
            _changes(case, final, before, after),
        ),
    ]


def run(
    case: Case, config: Config, schedules: Schedules, state: TrainState
) -> tuple[list[dict[str, float]], TrainState]:
    """Runs the steps of the file.

    Returns:
      The losses of each step under the authors' names, and the last state.
    """
    step = jax.jit(
        functools.partial(
            train_step, config=config, schedules=schedules, make_inputs=lambda inputs, *_: inputs
        )
    )
    losses = []
    for i in range(len(case.arrays["losses"])):
        state, metrics = step(state, case_inputs(case, config, i))
        losses.append(named_losses(metrics))
    return losses, state


def named_losses(metrics: Metrics) -> dict[str, float]:
    """The losses of a step under the authors' names, their means included."""
    named = {theirs: float(metrics[f"loss/{ours}"]) for theirs, ours in _LOSSES.items()}
    named |= {mean: (named[a] + named[b]) / 2 for mean, (a, b) in _MEANS.items()}
    return named | {"loss": float(metrics["loss"])}


def named_outputs(
    outputs: ObjectiveOutputs, masks: Mapping[Modality, Masking]
) -> dict[str, np.ndarray]:
    """The intermediate results under the authors' names."""
    named: dict[str, np.ndarray] = {}
    for m in MODALITIES:
        reconstruction, teacher = outputs.reconstructions[m], outputs.teachers[m]
        projection = outputs.projections[m]
        local = projection.outputs[1:]  # the global view comes first
        found = {
            "student_latent": outputs.latents[m],
            "mask": masks[m].removed,
            "target_patches": reconstruction.patches,
            "prediction": reconstruction.prediction,
            "student_tokens_local": projection.local_tokens,
            "student_output_local": einops.rearrange(local, "v b k -> (v b) k"),
            "teacher_tokens": teacher.tokens,
            "teacher_cls_attention": teacher.cls_attention,
            "cross_attention": teacher.cross_attention,
            "teacher_refined": teacher.refined,
            "teacher_output": teacher.output,
        }
        named |= {f"{m}_{name}": np.asarray(a) for name, a in found.items() if a is not None}
    return named


def _exported(state: TrainState, config: Config) -> dict[str, np.ndarray]:
    roots = {"student": state.student, "teacher": state.teacher, "centers": state.centers}
    return author_weights.export(roots, config)


def _by_step(losses: list[dict[str, float]]) -> dict[str, float]:
    return {
        f"{name} of step {i}": value
        for i, row in enumerate(losses[1:], start=1)
        for name, value in row.items()
    }


def _largest(expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """Largest difference over the largest entry, for each expected name; infinite if missing."""
    errors = {}
    for name, value in expected.items():
        value = np.asarray(value, np.float64)
        if name not in found or np.shape(found[name]) != value.shape:
            errors[name] = np.inf
            continue
        difference = np.abs(np.asarray(found[name], np.float64) - value).max()
        errors[name] = float(difference / max(np.abs(value).max(), np.finfo(np.float64).tiny))
    return errors


def _changes(
    case: Case,
    final: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Error of each tensor's change over the steps, in L2 norm over that of the change."""
    initial, aliases = case.group("params"), case.meta["aliases"]
    errors = {}
    for name, last in final.items():
        first = initial.get(name, initial.get(aliases.get(name, ""), np.zeros_like(last)))
        change = last.astype(np.float64) - first
        ours = after[name].astype(np.float64) - before[name]
        norm = np.linalg.norm(change)
        errors[name] = float(np.linalg.norm(ours - change) / max(norm, np.finfo(np.float64).tiny))
    return errors
