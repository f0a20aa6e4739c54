"""Draws a contact sheet of augmented views, the inputs of the networks.

    python -m data_pipelines.preview --config=configs/k400.py --config.data.dir=SHARDS

Writes a PNG with one row per record: frames of the global view, the same with the patches in gray
that the student's encoder does not get, frames of each local view, and likewise the global and
local spectrograms (low frequencies at the bottom). Records and random draws, those of the masks
too, are those of the run's batch at the given step.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from absl import flags

from data_pipelines import spoken_digits, terminal
from data_pipelines.errors import UserError
from data_pipelines.loader_config import (
    AudioConfig,
    LoaderConfig,
    Modality,
    VideoConfig,
    ViewConfig,
)
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset
from data_pipelines.tiles import false_colors, tile
from xkd_jax import command_line
from xkd_jax.config.pretraining import Config

GAP = 4
CAPTION = 16
HEADING = 18
_GLOBAL_FRAMES, _LOCAL_FRAMES = 6, 3  # largest number shown of a view
_LOUDEST = 2.5  # standard deviations at each end of the color scale
_HIDDEN = 96  # gray level of masked patches
_WHITE, _THIN, _FONT_SIZE = (255, 255, 255), 1, 0.4


class Strip(NamedTuple):
    """Pictures of one view side by side, uint8 [TILE, width, 3], and their heading."""

    heading: str
    picture: np.ndarray


def preview(config: LoaderConfig, dataset: Dataset, records: int, step: int = 0) -> np.ndarray:
    """Returns a contact sheet, uint8 [height, width, 3], of the first records of a batch.

    Args:
      config: of the run.
      dataset: its data set.
      records: rows of the sheet.
      step: of the batch.

    Raises:
      UserError: a record is damaged or lacks a modality.
    """
    batches = pipeline.train_batches(config, dataset, range(records), step)
    batch = next(batches)
    batches.close()
    arrays = {name: batch[name] for name in config.modalities}
    views, hidden = _views_and_hidden(config, arrays, step)
    rows: list[np.ndarray] = []
    for i, index in enumerate(batch["record"]):
        record = dataset[int(index)]
        strips = [
            strip
            for name in config.modalities
            for strip in _STRIPS[name](config.modality(name), views[name], hidden[name], i)
        ]
        if not rows:
            rows.append(_headings(strips))
        rows.append(_row(f"{record.id}  {record.label_text}", strips))
    return np.concatenate(rows)


def _views_and_hidden(
    config: LoaderConfig, batch: dict[Modality, Any], step: int
) -> tuple[dict[Modality, Any], dict[Modality, np.ndarray]]:
    """Returns the views of a batch, and whether each value of its global views is masked.

    The latter are {modality: bool [batch, *global_shape]}.
    """
    import jax  # takes seconds to start
    import jax.numpy as jnp

    from xkd_jax.method.train_step import inputs_of
    from xkd_jax.networks.patches import unpatchify

    def hidden(view: ViewConfig, removed: jax.Array) -> jax.Array:
        patches = jnp.repeat(removed[..., None], math.prod(view.patch), axis=-1)
        return unpatchify(patches, view.patch, view.grid) > 0

    @jax.jit
    def prepare(batch: dict[Modality, Any]) -> tuple[dict[Modality, Any], dict[Modality, Any]]:
        inputs = inputs_of(batch, jnp.int32(step), config)
        masks = inputs.masks.items()
        return inputs.views, {m: hidden(config.modality(m), mask.removed) for m, mask in masks}

    return jax.device_get(prepare(batch))


def _video_strips(
    video: VideoConfig, views: dict[str, Any], hidden: np.ndarray, row: int
) -> list[Strip]:
    whole = np.asarray(views["global"])[row]
    return [
        Strip("video", _frame_strip(video, whole, _GLOBAL_FRAMES)),
        Strip(_masked(video), _frame_strip(video, whole, _LOCAL_FRAMES, hidden[row])),
        *(
            Strip(_local(number), _frame_strip(video, view[row], _LOCAL_FRAMES))
            for number, view in enumerate(np.asarray(views.get("local", [])), 1)
        ),
    ]


def _frame_strip(
    video: VideoConfig, frames: np.ndarray, count: int, hidden: np.ndarray | None = None
) -> np.ndarray:
    """Returns `count` frames of a normalized view [T, S, S, 3], side by side."""
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    pixels = frames[chosen] * np.array(video.std) + np.array(video.mean)
    images = np.clip(255 * pixels + 0.5, 0, 255).astype(np.uint8)
    if hidden is not None:
        images[hidden[chosen]] = _HIDDEN
    return np.concatenate([tile(image) for image in images], axis=1)


def _audio_strips(
    audio: AudioConfig, views: dict[str, Any], hidden: np.ndarray, row: int
) -> list[Strip]:
    whole = np.asarray(views["global"])[row]
    return [
        Strip("audio", _spectrogram(whole)),
        Strip(_masked(audio), _spectrogram(whole, hidden[row])),
        *(
            Strip(_local(number), _spectrogram(view[row]))
            for number, view in enumerate(np.asarray(views.get("local", [])), 1)
        ),
    ]


def _masked(view: ViewConfig) -> str:
    return f"{view.mask_ratio:.0%} masked"


def _local(number: int) -> str:
    return f"local view {number}"


def _spectrogram(log_mel: np.ndarray, hidden: np.ndarray | None = None) -> np.ndarray:
    """Returns a normalized spectrogram [mels, columns] as an image in false colors."""
    levels = np.clip((log_mel / _LOUDEST + 1) * 127.5, 0, 255).astype(np.uint8)
    image = false_colors(levels)
    if hidden is not None:
        image[hidden] = _HIDDEN
    return tile(image[::-1])


# {modality: (its config, its views, masked values, row of the batch) -> strips}
_STRIPS: dict[Modality, Callable[..., list[Strip]]] = {
    "video": _video_strips,
    "audio": _audio_strips,
}


def _headings(strips: list[Strip]) -> np.ndarray:
    row = np.zeros((HEADING, sum(s.picture.shape[1] + GAP for s in strips), 3), np.uint8)
    left = 0
    for heading, picture in strips:
        _write_text(row, heading, left)
        left += picture.shape[1] + GAP
    return row


def _row(caption: str, strips: list[Strip]) -> np.ndarray:
    apart = [np.pad(s.picture, ((CAPTION, GAP), (0, GAP), (0, 0))) for s in strips]
    row = np.ascontiguousarray(np.concatenate(apart, axis=1))
    _write_text(row, caption, 0)
    return row


def _write_text(row: np.ndarray, text: str, left: int) -> None:
    at, font = (left + 2, 12), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(row, text, at, font, _FONT_SIZE, _WHITE, _THIN, cv2.LINE_AA)


def _open(config: LoaderConfig) -> Dataset:
    if not config.data.dir:
        raise UserError("data.dir is empty: give --config.data.dir=SHARDS.")
    if config.data.dataset == "spoken_digits":
        spoken_digits.build(config, config.data.dir)
    return open_dataset(config, config.data.dir, config.data.split)


def main(config: Config) -> None:
    """Writes the sheet of a config to `--output`; on the CPU, as accelerators may be in use.

    Raises:
      UserError: the data set can't be read, or the file can't be written.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")
    values = flags.FLAGS
    config = dataclasses.replace(config, batch_size=max(values.records, config.batch_size))
    sheet = preview(config, _open(config), values.records, values.step)
    _write(sheet, values.output)
    shown = f"{terminal.count(values.records, 'record')}: {values.output}"
    terminal.print_text(terminal.escaped(shown))
    terminal.print_next(_next(config.data.dir))


def _next(shards: str) -> str:
    """Returns the command that trains with the shown views."""
    path = command_line.config_path(sys.argv)
    return f"{terminal.main_command()} --config={path} --config.data.dir={shlex.quote(shards)}"


def _write(sheet: np.ndarray, output: str) -> None:
    try:
        smallest = [cv2.IMWRITE_PNG_COMPRESSION, 9]
        encoded = cv2.imencode(".png", sheet[..., ::-1], smallest)[1]
        pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(output).write_bytes(encoded.tobytes())
    except OSError as error:
        raise UserError(
            f"{output} can't be written ({error.strerror}): give another --output."
        ) from None


def run() -> None:
    """Defines the flags and runs `main`."""
    flags.DEFINE_integer("records", 6, "Number of records, one in each row.", lower_bound=1)
    flags.DEFINE_integer("step", 0, "Step whose batch is shown.", lower_bound=0)
    flags.DEFINE_string("output", "runs/preview.png", "The picture.")
    command_line.run(main)


if __name__ == "__main__":
    run()
