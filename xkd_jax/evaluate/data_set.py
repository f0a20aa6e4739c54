"""Whether a data set is the one that an evaluation is of, and what a result says of it."""

from __future__ import annotations

import dataclasses

from data_pipelines.errors import UserError
from data_pipelines.format import metadata as metadata_lib
from data_pipelines.format import storage
from data_pipelines.format.metadata import Metadata
from data_pipelines.terminal import escaped
from xkd_jax.config.benchmarks import BENCHMARKS
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.evaluate.splits import Benchmark


def check(config: EvalConfig) -> None:
    """Refuses a data set of another benchmark, or without a modality that is evaluated.

    Shards in the DMVR schema don't tell what they are of.

    Raises:
      UserError: see above, or there is no such folder.
    """
    directory = config.data.dir
    if directory and metadata_lib.FILE in storage.sizes(directory):
        metadata = metadata_lib.read(directory)
        _check_name(config, metadata)
        _check_modalities(config, metadata)


def _check_name(config: EvalConfig, metadata: Metadata) -> None:
    record = BENCHMARKS.get(config.benchmark)
    if record and record.data_set and record.data_set != metadata.name:
        raise UserError(
            f"{config.data.dir} holds the data set {metadata.name}, and the evaluation is of the"
            f" benchmark {config.benchmark}: give that benchmark's shards by --config.data.dir, or"
            f" --config.benchmark={metadata.name} for a result under another name."
        )


def _check_modalities(config: EvalConfig, metadata: Metadata) -> None:
    held = metadata.modalities
    lacking = [modality for modality in config.modalities if modality not in held]
    if not lacking:
        return
    remedy = f"--config.modality={held[0]}" if held else "another data set"
    if config.protocol == "retrieval":
        remedy = "a data set that has both video and audio"
    raise UserError(
        f"The data set {metadata.name} in {config.data.dir} has no {lacking[0]}: give {remedy}."
    )


@dataclasses.dataclass(frozen=True)
class DataSummary:
    """What `result.json` says of the data.

    Attributes:
      name: of the data set.
      classes: number of them.
      splits: names of those that are used.
      records: number in each split, in some fold or none.
      digest: of the content of each split.
      folds: numbers of those that are evaluated.
      folds_left_out: numbers of the data set's others.
      left_out: {reason: source files left out when the data set was built}.
    """

    name: str
    classes: int
    splits: list[str]
    records: dict[str, int]
    digest: dict[str, str]
    folds: list[int]
    folds_left_out: list[int]
    left_out: dict[str, int]

    @classmethod
    def of(cls, benchmark: Benchmark) -> DataSummary:
        """Sums up the data of a benchmark."""
        metadata = benchmark.test.metadata
        splits = {
            benchmark.train_name: benchmark.train_index,
            benchmark.test_name: benchmark.test_index,
        }
        folds = [fold.number for fold in benchmark.folds if fold.number]
        others = set(range(1, metadata.folds + 1)) - set(folds)
        return cls(
            name=metadata.name,
            classes=benchmark.classes,
            splits=list(splits),
            records={name: len(index.label) for name, index in splits.items()},
            digest={name: index.digest for name, index in splits.items()},
            folds=folds,
            folds_left_out=sorted(others) if folds else [],
            left_out=metadata.left_out,
        )

    def describe(self) -> str:
        """The lines that say what of the data set is not evaluated; empty where it all is."""
        lines = []
        if self.folds_left_out:
            numbers = ", ".join(map(str, self.folds_left_out))
            lines.append(f"left out  folds {numbers}, which --config.data.folds doesn't name")
        if self.left_out:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
            lines.append(f"left out  files when the data set was built: {reasons}")
        return "".join(f"\n{escaped(line)}" for line in lines)
