import dataclasses

import numpy as np
import pytest
import simplejpeg

from data_pipelines import preview
from data_pipelines.format import shards
from data_pipelines.format.metadata import Metadata
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import AudioAugment, VideoAugment
from data_pipelines.read.dataset import Dataset, open_dataset
from data_pipelines.tiles import TILE
from xkd_jax.config.pretraining import Config


@pytest.fixture(scope="module")
def config(small) -> Config:
    """Views without augmentation, of frames with the size of the view."""
    plain = VideoAugment(
        area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0, brightness=0, contrast=0, saturation=0, hue=0
    )
    video = dataclasses.replace(small.video, global_augment=plain)
    audio = dataclasses.replace(small.audio, global_augment=AudioAugment(volume=0))
    data = dataclasses.replace(small.data, short_side=small.video.size)
    return dataclasses.replace(small, video=video, audio=audio, data=data)


@pytest.fixture(scope="module")
def dataset(config, tmp_path_factory) -> Dataset:
    """Three records, each of one gray level, and a spectrogram with its lowest band loud."""
    folder = str(tmp_path_factory.mktemp("shards"))
    video, audio = config.video, config.audio
    metadata = Metadata(
        "greys", video.frame_rate, video.size, audio.sample_rate, audio.fft, audio.hop, audio.mels
    )
    log_mel = np.full((audio.mels, audio.columns), 1000, np.uint16)
    log_mel[0] = 60000
    records = [
        Record(id=str(level), frames=[_gray(level, video.size)] * video.frames, log_mel=log_mel)
        for level in (40, 120, 200)
    ]
    shards.write_dataset(folder, metadata, {"train": records}, shards=1)
    return open_dataset(config, folder, "train")


def _gray(level: int, size: int) -> bytes:
    return simplejpeg.encode_jpeg(np.full((size, size, 3), level, np.uint8), quality=100)


def test_row_has_frames_and_spectrograms_of_record(config, dataset):
    sheet = preview.preview(config, dataset, records=3)
    tile, row = TILE, TILE + preview.CAPTION + preview.GAP
    assert sheet.shape[0] == preview.HEADING + 3 * row
    assert sheet[: preview.HEADING].max() > 200  # headings
    shown_frames = (config.video.frames, 3, config.video.local_frames)  # whole, masked, local
    levels = []
    for top in range(preview.HEADING + preview.CAPTION, len(sheet), row):
        shown = sheet[top : top + tile, : tile * config.video.frames]
        assert np.ptp(shown.astype(int)) <= 2
        levels.append(round(float(shown.mean()), -1))
        left = tile * sum(shown_frames) + 3 * preview.GAP
        spectrogram = sheet[top : top + tile, left : left + 2 * tile].astype(int)
        loud, quiet = spectrogram[-1, 0], spectrogram[0, 0]
        assert loud.sum() > quiet.sum() + 100  # the lowest band is at the bottom
    assert sorted(levels) == [40, 120, 200]


def test_masked_patches_are_gray_and_others_unchanged(config, dataset):
    sheet = preview.preview(config, dataset, records=3)
    tile, row, gap = TILE, TILE + preview.CAPTION + preview.GAP, preview.GAP
    side = tile * config.video.patch[1] // config.video.size
    for top in range(preview.HEADING + preview.CAPTION, len(sheet), row):
        left = tile * config.video.frames + gap
        whole, masked = (sheet[top : top + tile, x : x + 3 * tile] for x in (0, left))
        hidden = np.ptp(masked.astype(int), axis=-1) + abs(masked[..., 0].astype(int) - 96) == 0
        assert np.ptp(np.concatenate([masked[~hidden], whole[0]]).astype(int)) <= 2
        # a frame in each of the clip's pairs, of which the patches are masked together
        patches = hidden.reshape(tile // side, side, 3 * tile // side, side)
        assert (patches.all((1, 3)) == patches.any((1, 3))).all()
        first, last = hidden[:, :tile], hidden[:, 2 * tile :]
        assert first.mean() + last.mean() == 2 * config.video.mask_ratio


def test_same_step_gives_same_sheet(config, dataset):
    first, again = (preview.preview(config, dataset, 2, step=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
