"""Values that files of weights lack: number of heads, sizes of inputs and patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.loader_config import AudioConfig, Modality, VideoConfig
from xkd_jax.config import dataclass_schema
from xkd_jax.inference.formats.given import Given

# {width: number of heads} in the papers of XKD, VideoMAE and its second version, AudioMAE, CAV-MAE.
PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
_ASKED: dict[Modality, tuple[str, ...]] = {
    "video": ("frames", "size", "patch"),
    "audio": ("mels", "columns", "patch"),
}


def heads_of(path: str, width: int, given: Given, stated: int | None = None) -> int:
    """Returns the number of heads: of the file's config, as given, or as published for the width.

    Args:
      path: of the file, for messages.
      width: width of the encoder.
      given: values from the caller.
      stated: number in the file's config; None: it has none.

    Raises:
      UserError: the number is unknown, or does not divide the width.
    """
    if stated is not None and given.heads not in (None, stated):
        raise UserError(
            f"heads is {given.heads}, but {path} states {stated}: leave {given.name('heads')} out."
        )
    heads = stated or given.heads or PUBLISHED_HEADS.get(width)
    if heads is None:
        raise UserError(
            f"{path} does not state the number of heads for width {width}: give"
            f" {given.name('heads')}."
        )
    if heads < 1 or width % heads:
        raise UserError(f"heads is {heads}: give a divisor of the width {width} of {path}.")
    return heads


def view_of(
    path: str,
    modality: Modality,
    given: Given,
    known: Mapping[str, Any],
    defaults: Mapping[str, Any],
    tokens: int | None,
    values: int,
) -> VideoConfig | AudioConfig:
    """Returns the view that an encoder's positions are for.

    Args:
      path: of the file, for messages.
      modality: modality of the encoder.
      given: values from the caller; may not contradict the file.
      known: fields that the file states.
      defaults: published values of other fields.
      tokens: number of positions in the file; None: it has none, and any number is accepted.
      values: number of values of one patch.

    Raises:
      UserError: sizes are missing, contradict the file, or don't fit its tensors.
    """
    fields = dict(given.of(modality))
    for name, value in known.items():
        if name in fields and _plain(fields[name]) != _plain(value):
            raise UserError(
                f"{given.field(modality, name)} is {fields[name]!r}, but {path} states {value!r}:"
                " leave it out."
            )
    assumed = given.assumed.get(modality, {})
    asked = {name: assumed[name] for name in _ASKED[modality] if name in assumed}
    fields = {**asked, **defaults, **fields, **known}
    if missing := [name for name in _ASKED[modality] if name not in fields]:
        raise UserError(
            f"{path} does not state the {', '.join(missing)} of its {modality} input: give"
            f" {given.fields(modality, missing)}."
        )
    view: VideoConfig | AudioConfig = (
        dataclass_schema.build(VideoConfig, fields)
        if modality == "video"
        else dataclass_schema.build(AudioConfig, fields)
    )
    other = f"give other {given.fields(modality, _ASKED[modality])}."
    _check_fit(path, view, tokens, values, other)
    return view


def _check_fit(
    path: str, view: VideoConfig | AudioConfig, tokens: int | None, values: int, other: str
) -> None:
    if any(n % p for n, p in zip(view.global_shape, view.patch, strict=True)):
        raise UserError(
            f"{path}: an input of {view.global_shape} is not a whole number of patches of"
            f" {view.patch}: {other}"
        )
    if view.patch_values != values:
        raise UserError(
            f"{path} has patches of {values} values, and those of {view.patch} have"
            f" {view.patch_values}: {other}"
        )
    if tokens is not None and view.tokens != tokens:
        raise UserError(
            f"{path} has positions of {tokens} patches, and an input of {view.global_shape} in"
            f" patches of {view.patch} has {view.tokens}: {other}"
        )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
