"""Comparison of outputs, losses, gradients and parameter updates with the authors' code."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import einops
import jax
import numpy as np

from data_pipelines.loader_config import MODALITIES, LoaderConfig, Modality
from xkd_jax.config.architecture import Architecture
from xkd_jax.config.pretraining import Config
from xkd_jax.inference import author_weights
from xkd_jax.method.objective import ObjectiveOutputs
from xkd_jax.method.schedules import Schedules
from xkd_jax.method.train_state import TrainState
from xkd_jax.method.train_step import Metrics, loss_and_gradients
from xkd_jax.networks.patches import Masking, colors_last
from xkd_jax.parity.comparison import Comparison, Report, relative_errors, worst
from xkd_jax.parity.golden_file import GoldenFile
from xkd_jax.parity.step_case import Case, case_config, case_inputs, case_schedules, case_state
from xkd_jax.training.compiled_run import optimizer_of, step_of

# Largest absolute difference / the tensor's largest absolute value; for the change of parameters,
# L2 norm of the difference / L2 norm of the change from the first step to the last.
TOLERANCES = {
    "outputs": 1e-5,
    "losses at step 0": 1e-4,
    "gradients": 5e-4,
    "losses of later steps": 2e-3,
    "final parameters": 5e-4,
    "change of parameters": 2e-3,
}

# {the authors' name of a loss: our name}
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


def training_steps(file: GoldenFile) -> Report:
    """Runs the file's training steps and compares outputs, losses, gradients and parameters.

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
    # a missing or wrong value of the description raises at its first use
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        first_line = str(error).partition("\n")[0]
        raise file.damaged(f"{type(error).__name__}: {first_line}") from error


def compare(case: Case) -> list[Comparison]:
    """Runs one case and returns the comparison of each group."""
    config, schedules = case_config(case), case_schedules(case)
    state = case_state(case, config, schedules)
    before = _exported(state, config.architecture)
    inputs = case_inputs(case, config, 0)
    temperatures = {m: of(0) for m, of in schedules.teacher_temperature.items()}
    of = functools.partial(loss_and_gradients, architecture=config.architecture, loss=config.loss)
    outputs, gradients = jax.jit(of)(state, temperatures, inputs)
    losses, state = run(case, config, schedules, state)
    after = _exported(state, config.architecture)
    gradients = author_weights.export({"student": gradients}, config.architecture)

    expected = [
        dict(zip(case.meta["loss_names"], row, strict=True)) for row in case.arrays["losses"]
    ]
    final = {k: v for k, v in case.group("final").items() if not k.endswith("weight_g")}
    errors = {
        "outputs": relative_errors(case.group("out"), named_outputs(outputs, inputs.masks, config)),
        "losses at step 0": relative_errors(expected[0], losses[0]),
        "gradients": relative_errors(case.group("grads"), gradients),
        "losses of later steps": relative_errors(_by_step(expected), _by_step(losses)),
        "final parameters": relative_errors(final, after),
        "change of parameters": _changes(case, final, before, after),
    }
    return [worst(group, TOLERANCES[group], found) for group, found in errors.items()]


def run(
    case: Case, config: Config, schedules: Schedules, state: TrainState
) -> tuple[list[dict[str, float]], TrainState]:
    """Runs the training steps of the file.

    Args:
      case: the file.
      config: the result of `case_config`.
      schedules: the result of `case_schedules`.
      state: the state before the first step.

    Returns:
      The losses of each step under the authors' names, and the state after the last step.
    """
    transformation = optimizer_of(config, schedules)
    step = jax.jit(step_of(config, schedules, transformation, lambda inputs, *_: inputs))
    losses = []
    for i in range(len(case.arrays["losses"])):
        state, metrics = step(state, case_inputs(case, config, i))
        losses.append(named_losses(metrics))
    return losses, state


def named_losses(metrics: Metrics) -> dict[str, float]:
    """Returns the losses of a step, and the authors' means of them, under the authors' names."""
    named = {theirs: float(metrics[f"loss/{ours}"]) for theirs, ours in _LOSSES.items()}
    named |= {mean: (named[a] + named[b]) / 2 for mean, (a, b) in _MEANS.items()}
    return named | {"loss": float(metrics["loss"])}


def named_outputs(
    outputs: ObjectiveOutputs, masks: Mapping[Modality, Masking], config: LoaderConfig
) -> dict[str, np.ndarray]:
    """Returns the objective's intermediate results under the authors' names.

    Args:
      outputs: outputs of one step.
      masks: masks of the global views, by modality.
      config: of the views.

    Returns:
      {"{modality}_{name}": float array [batch, ...]}; outputs that were not computed are left out.
    """
    named: dict[str, np.ndarray] = {}
    for m in MODALITIES:
        reconstruction, teacher = outputs.reconstructions[m], outputs.teachers[m]
        projection, patch = outputs.projections[m], config.modality(m).patch
        local = projection.outputs[1:]  # the global view is first
        found = {
            "student_latent": outputs.latents[m],
            "mask": masks[m].removed,
            "target_patches": colors_last(reconstruction.patches, patch),
            "prediction": colors_last(reconstruction.prediction, patch),
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


def _exported(state: TrainState, architecture: Architecture) -> dict[str, np.ndarray]:
    roots = {"student": state.student, "teacher": state.teacher, "centers": state.centers}
    return author_weights.export(roots, architecture)


def _by_step(losses: list[dict[str, float]]) -> dict[str, float]:
    return {
        f"{name} of step {i}": value
        for i, row in enumerate(losses[1:], start=1)
        for name, value in row.items()
    }


def _changes(
    case: Case,
    final: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Returns {tensor: L2 norm of the difference of changes / L2 norm of the expected change}."""
    initial, aliases = case.group("params"), case.meta["aliases"]
    errors = {}
    for name, last in final.items():
        first = initial.get(name, initial.get(aliases.get(name, ""), np.zeros_like(last)))
        change = last.astype(np.float64) - first
        ours = after[name].astype(np.float64) - before[name]
        norm = np.linalg.norm(change)
        errors[name] = float(np.linalg.norm(ours - change) / max(norm, np.finfo(np.float64).tiny))
    return errors
