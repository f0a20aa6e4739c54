"""Draws a contact sheet of augmented views, the inputs of the networks.

    python -m data_pipelines.preview --config=configs/k400.py --config.data.dir=SHARDS

Writes a PNG with one row per record: frames of the global view, frames of each local view, the
global spectrogram and each local one (low frequencies at the bottom). Records and random draws are
those of the run's batch at the given step.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from absl import flags

from data_pipelines import spoken_digits, terminal
from data_pipelines.errors import UserError
from data_pipelines.loader_config import AudioConfig, Modality, VideoConfig
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset
from xkd_jax import command_line
from xkd_jax.config.pretraining import Config

TILE = 112  # height of every picture, pixels
GAP = 4
CAPTION = 16
_GLOBAL_FRAMES, _LOCAL_FRAMES = 6, 3  # largest number shown of a view
_LOUDEST = 2.5  # standard deviations at each end of the color scale


def preview(config: Config, dataset: Dataset, records: int, step: int = 0) -> np.ndarray:
    """Returns a contact sheet, uint8 [height, width, 3], of the first records of a batch.

    Args:
      config: of the run.
      dataset: its data set.
      records: rows of the sheet.
      step: of the batch.

    Raises:
      UserError: a record is damaged or lacks a modality.
    """
    from xkd_jax.augment import augment  # JAX takes seconds to start

    batches = pipeline.train_batches(config, dataset, range(records), step)
    batch = next(batches)
    batches.close()
    views = augment(config, {name: batch[name] for name in config.modalities})
    rows = []
    for i, index in enumerate(batch["record"]):
        record = dataset[int(index)]
        strips = [
            strip
            for name in config.modalities
            for strip in _STRIPS[name](config.modality(name), views[name], i)
        ]
        rows.append(_row(f"{record.id}  {record.label_text}", strips))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0))) for r in rows])


def _video_strips(video: VideoConfig, views: dict[str, Any], row: int) -> list[np.ndarray]:
    shown = [(np.asarray(views["global"])[row], _GLOBAL_FRAMES)]
    shown += [(view[row], _LOCAL_FRAMES) for view in np.asarray(views.get("local", []))]
    return [_frame_strip(video, frames, count) for frames, count in shown]


def _frame_strip(video: VideoConfig, frames: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` frames of a normalized view [T, S, S, 3], side by side."""
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    pixels = frames[chosen] * np.array(video.std) + np.array(video.mean)
    images = np.clip(255 * pixels + 0.5, 0, 255).astype(np.uint8)
    return np.concatenate([_scale(image) for image in images], axis=1)


def _audio_strips(audio: AudioConfig, views: dict[str, Any], row: int) -> list[np.ndarray]:
    shown = [np.asarray(views["global"])[row]]
    shown += [view[row] for view in np.asarray(views.get("local", []))]
    return [_spectrogram(log_mel) for log_mel in shown]


def _spectrogram(log_mel: np.ndarray) -> np.ndarray:
    """Returns a normalized spectrogram [mels, columns] as an image in false colors."""
    levels = np.clip((log_mel / _LOUDEST + 1) * 127.5, 0, 255).astype(np.uint8)[::-1]
    return _scale(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1])


# {modality: (its config, its views, row of the batch) -> pictures}
_STRIPS: dict[Modality, Callable[..., list[np.ndarray]]] = {
    "video": _video_strips,
    "audio": _audio_strips,
}


def _scale(image: np.ndarray) -> np.ndarray:
    """Resizes an image to the height of a tile; enlarged pixels keep sharp edges."""
    width = max(1, round(image.shape[1] * TILE / image.shape[0]))
    mode = cv2.INTER_AREA if image.shape[0] > TILE else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(image), (width, TILE), interpolation=mode)


def _row(caption: str, strips: list[np.ndarray]) -> np.ndarray:
    apart = [np.pad(strip, ((CAPTION, GAP), (0, GAP), (0, 0))) for strip in strips]
    row = np.ascontiguousarray(np.concatenate(apart, axis=1))
    white, thin = (255, 255, 255), 1
    cv2.putText(row, caption, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, white, thin, cv2.LINE_AA)
    return row


def _open(config: Config) -> Dataset:
    if not config.data.dir:
        raise UserError("data.dir is empty: give --config.data.dir=SHARDS.")
    if config.data.dataset == "spoken_digits":
        spoken_digits.build(config, config.data.dir)
    return open_dataset(config, config.data.dir, config.data.split)


def main(config: Config) -> None:
    """Writes the sheet of a config to `--output`.

    Raises:
      UserError: the data set can't be read, or the file can't be written.
    """
    values = flags.FLAGS
    config = dataclasses.replace(config, batch_size=max(values.records, config.batch_size))
    sheet = preview(config, _open(config), values.records, values.step)
    _write(sheet, values.output)
    terminal.print_text(terminal.escaped(f"{values.records} records: {values.output}"))


def _write(sheet: np.ndarray, output: str) -> None:
    try:
        smallest = [cv2.IMWRITE_PNG_COMPRESSION, 9]
        encoded = cv2.imencode(".png", sheet[..., ::-1], smallest)[1]
        pathlib.Path(output).write_bytes(encoded.tobytes())
    except OSError as error:
        raise UserError(
            f"{output} can't be written ({error.strerror}): give another --output."
        ) from None


def run() -> None:
    """Defines the flags and runs `main`."""
    flags.DEFINE_integer("records", 6, "Rows of the sheet.", lower_bound=1)
    flags.DEFINE_integer("step", 0, "Step whose batch is shown.", lower_bound=0)
    flags.DEFINE_string("output", "preview.png", "The picture.")
    command_line.run(main)


if __name__ == "__main__":
    run()
