"""Batches of views from TFRecord shards: a Grain pipeline, in `_pipeline`.

A batch is a function of the config, the data set and the step alone. A run resumes from the step,
with any number of hosts, worker processes and threads, and reads the same batches:

    step, row -> position in the shuffled sequence of records -> (epoch, record)
    (seed, epoch, record, stream) -> the random choices of a view

(A checkpoint of Grain's iterator state depends on the number of workers, and the random numbers of
`random_map` depend on positions. docs/data.md lists which parts are Grain's, and why others are
not.)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
from collections.abc import Callable, Generator, Sequence
from typing import Any

import grain
import numpy as np

from data_pipelines.buffers import Buffers
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import LoaderConfig, Modality
from data_pipelines.read import clips as clips_lib
from data_pipelines.read import loader_processes, views
from data_pipelines.read.batches import BatchInPlace, Fill, Row
from data_pipelines.read.dataset import Dataset
from data_pipelines.read.in_order import Drawn, InOrder
from data_pipelines.read.read_ahead import Batch, prepare_worker, read_ahead
from data_pipelines.read.shuffle import OnePass, Order, Shuffle, epoch_records


def train_batches(
    config: LoaderConfig,
    dataset: Dataset,
    rows: Sequence[int] | None = None,
    start_step: int = 0,
    *,
    modalities: Sequence[Modality] | None = None,
    records: np.ndarray | None = None,
    make_views: Callable[..., Row] = views.draw_train_views,
) -> Generator[Batch]:
    """Yields this host's rows of each global batch of training, from a step on, without end.

    An epoch has each record once, in a different order each time. A batch may contain the end of an
    epoch and the start of the next. With `data.drop_last`, the records that do not fill the last
    batch of an epoch are left out of that epoch.

    Args:
      config: of the run.
      dataset: the split, see `dataset.open_dataset`.
      rows: indices of this host's rows among the `config.batch_size` rows; None: all.
      start_step: step of the first batch.
      modalities: modalities to read; None: the config's.
      records: the records to use, int [n], ascending; None: all.
      make_views: (config, size, log_mel, rng_of) -> views; see `views.draw_train_views`.

    Yields:
      Nested dictionaries of arrays with a leading axis of rows: the result of `make_views`,
      `record` int64 [rows] (index in the data set), and `label` int64 [rows] or, for a multi-label
      data set, `labels` uint8 [rows, classes]. Closing the iterator stops its threads and
      processes.

    Raises:
      UserError: a record is damaged or lacks a modality, or the records do not fill a batch.
    """
    indices, shards = _indices(dataset, records), dataset.source.first_records
    order = Shuffle(
        indices,
        shards if records is None else np.searchsorted(indices, shards),
        config.seed,
        config.data.shuffle_window,
        epoch_records(len(indices), config.batch_size, config.data.drop_last),
    )
    clips = _Clips(config, dataset, modalities, make_views)
    return _batches(clips, order, clips.random_row, rows, start_step)


def eval_batches(
    config: LoaderConfig,
    dataset: Dataset,
    rows: Sequence[int] | None = None,
    start_step: int = 0,
    *,
    clips: int = 1,
    modalities: Sequence[Modality] | None = None,
    records: np.ndarray | None = None,
    make_views: Callable[..., Row] = views.draw_eval_views,
) -> Generator[Batch]:
    """Yields this host's rows of each global batch of one pass over the records, in order.

    Args:
      config: of the run.
      dataset: see `dataset.open_dataset`.
      rows: this host's rows of the `config.batch_size` rows; None: all.
      start_step: of the first batch.
      clips: clips per record, in consecutive rows, spread evenly over it; one clip is centered.
      modalities: modalities to read; None: the config's.
      records: the records to use, int [n]; None: all.
      make_views: (config, size, log_mel) -> views; see `views.draw_eval_views`.

    Yields:
      As `train_batches`, with `clip` int64 [rows] (number of the clip in its record) and `valid`
      bool [rows]: rows past the end of the last batch are all zeros.

    Raises:
      UserError: a record is damaged or lacks a modality.
    """
    cut = _Clips(config, dataset, modalities, make_views)
    order = OnePass(_indices(dataset, records), clips)
    spread = functools.partial(cut.spread_row, clips=clips)
    return _batches(cut, order, spread, rows, start_step)


def augmented_batches(
    config: LoaderConfig,
    dataset: Dataset,
    rows: Sequence[int] | None = None,
    start_step: int = 0,
    *,
    clips: int = 1,
    modalities: Sequence[Modality] | None = None,
    records: np.ndarray | None = None,
    make_views: Callable[..., Row] = views.draw_train_views,
) -> Generator[Batch]:
    """Yields this host's rows of one pass over the records, in order, with random training views.

    Clip k of a record is the clip of `train_batches` in epoch k.

    Args:
      config: of the run.
      dataset: the split, see `dataset.open_dataset`.
      rows: indices of this host's rows among the `config.batch_size` rows; None: all.
      start_step: step of the first batch.
      clips: random clips per record, in consecutive rows.
      modalities: modalities to read; None: the config's.
      records: the records to use, int [n]; None: all.
      make_views: (config, size, log_mel, rng_of) -> views; see `views.draw_train_views`.

    Yields:
      As `train_batches`; rows past the end of the last batch are all zeros.

    Raises:
      UserError: a record is damaged or lacks a modality.
    """
    cut = _Clips(config, dataset, modalities, make_views)
    order = OnePass(_indices(dataset, records), clips)
    return _batches(cut, order, cut.random_row, rows, start_step)


def _batches(
    clips: _Clips,
    order: Order,
    to_row: Callable[[Drawn], tuple[Row, Fill]],
    rows: Sequence[int] | None,
    start_step: int,
) -> Generator[Batch]:
    if rows is None:
        rows = range(clips.config.batch_size)
    config = clips.config
    clips_here = order.clips_of_pass * len(rows) // config.batch_size
    data = loader_processes.resolved(config, len(rows), clips_here)
    config = dataclasses.replace(config, data=data)
    pipeline = functools.partial(_pipeline, config, clips.dataset, order, to_row, rows)
    return read_ahead(data, pipeline, start_step)


def _pipeline(
    config: LoaderConfig,
    dataset: Dataset,
    order: Order,
    to_row: Callable[[Drawn], tuple[Row, Fill]],
    rows: Sequence[int],
    buffers: Buffers,
    start_step: int,
) -> grain.IterDataset:
    """Returns the Grain data set of this host's rows of each batch, from `start_step` on."""
    ahead = max(config.data.prefetch, 1)
    return (
        InOrder(dataset, order)
        .map(to_row)
        .pipe(BatchInPlace, config.batch_size, rows, config.data.threads, buffers)
        .slice(slice(start_step, None))
        .map(buffers.pack)
        .to_iter_dataset(grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead))
        .mp_prefetch(grain.MultiprocessingOptions(config.data.workers), prepare_worker)
    )


def _indices(dataset: Dataset, records: np.ndarray | None) -> range | np.ndarray:
    """Returns the indices to read; those of all records take no memory."""
    return range(len(dataset)) if records is None else np.asarray(records, np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class _Clips:
    """Cuts clips out of records and makes their views."""

    config: LoaderConfig
    dataset: Dataset
    modalities: Sequence[Modality] | None
    make_views: Callable[..., Row]

    def _record(self, drawn: Drawn) -> Record:
        stored, wanted = self.dataset.metadata.frame_rate, self.config.video.frame_rate
        return clips_lib.at_frame_rate(drawn.record, stored, wanted)

    def _row(self, index: int, record: Record, start: int, *args: Any) -> tuple[Row, Fill]:
        """Returns the row of the clip at position `start` of record `index`."""
        where, stored = self.dataset.source.name(index), self.dataset.metadata.short_side
        modalities = self.config.modalities if self.modalities is None else self.modalities
        clip = clips_lib.cut_clip(record, start, self.config, modalities, where, stored)
        row = self.make_views(self.config, clip.size, clip.log_mel, *args)
        return {**row, "record": np.int64(index), **self._target(record)}, clip.fill

    def random_row(self, drawn: Drawn) -> tuple[Row, Fill]:
        """Returns the row of a random clip of a record, for an epoch."""
        seed, epoch, index, record = self.config.seed, drawn.draw, drawn.index, self._record(drawn)

        def rng_of(stream: str) -> random.Random:
            text = f"{seed}/{epoch}/{index}/{stream}".encode()
            return random.Random(int.from_bytes(hashlib.blake2b(text).digest()[:16]))

        start = rng_of("clip").randint(0, clips_lib.last_start(record, self.config))
        return self._row(index, record, start, rng_of)

    def spread_row(self, drawn: Drawn, clips: int) -> tuple[Row, Fill]:
        """Returns the row of one of `clips` clips spread evenly over a record."""
        record = self._record(drawn)
        starts = clips_lib.spread_starts(record, self.config, clips)
        row, fill = self._row(drawn.index, record, int(starts[drawn.draw]))
        return {**row, "clip": np.int64(drawn.draw), "valid": np.True_}, fill

    def _target(self, record: Record) -> Row:
        metadata = self.dataset.metadata
        if not metadata.multi_label:
            return {"label": np.int64(record.label)}
        labels = np.zeros(len(metadata.class_names), np.uint8)
        labels[list(record.labels)] = 1
        return {"labels": labels}
