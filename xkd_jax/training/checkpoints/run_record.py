"""The record of a run that is saved with each checkpoint."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES
from xkd_jax.config.initial_weights import InitConfig
from xkd_jax.training.checkpoints.versions import versions

RECORD_LAYOUT = 2
# Value of `init` for records of versions that did not have it.
_RANDOM = dataclasses.asdict(InitConfig())


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run at one step.

    step: number of updates made.
    config: the run's config, as nested dictionaries of JSON types.
    records: number of records in the data set.
    data_digest: digest of the data set's content (`Dataset.digest`).
    versions: {name: version} of the program and its libraries (`versions.versions`).
    initial_weights: source, format, license and digest of the weights that the encoders started
      from; {}: random ones.
    digests: {item: {path of an array: its digest}} (`array_digest.digests`).
    layout: version of the set of fields.
    order_blocks: number of parts of an epoch that are permuted separately (`shuffle.blocks`); 1 in
      runs of earlier versions.
    """

    step: int
    config: dict[str, Any]
    records: int
    data_digest: str
    versions: dict[str, str]
    digests: dict[str, dict[str, int]]
    layout: int = RECORD_LAYOUT
    initial_weights: dict[str, str] = dataclasses.field(default_factory=dict)
    order_blocks: int = 1

    # Prefixes of values that a resumed run can't change: they decide the shapes of the state, or
    # which data a step gets.
    FIXED: ClassVar[tuple[str, ...]] = (
        "config.seed", "config.batch_size", "config.modalities", "config.init", "config.model",
        *(f"config.{m}" for m in MODALITIES), "config.data.split",
        "config.data.shuffle_window", "config.data.drop_last", "records",
    )  # fmt: skip

    @classmethod
    def of(
        cls, config: dict[str, Any], records: int, data_digest: str, order_blocks: int = 1
    ) -> Self:
        """Returns the record of a run before its first step.

        Args:
          config: nested dictionaries; converted to JSON types.
          records: number of records in the data set.
          data_digest: digest of the data set's content.
          order_blocks: see `RunRecord`.
        """
        plain = json.loads(json.dumps(config))
        return cls(0, plain, records, data_digest, versions(), {}, order_blocks=order_blocks)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, and a checksum of them."""
        content = dataclasses.asdict(self)
        return {**content, "crc32": checksum(content)}

    @staticmethod
    def verified(content: Any) -> dict[str, Any]:
        """Returns the fields of a record that `to_json` returned.

        Raises:
          ValueError: the checksum differs.
        """
        content = dict(content)
        if content.pop("crc32", None) != checksum(content):
            raise ValueError("its record of the run is not what was written")
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any], where: Any) -> RunRecord:
        """Returns the record with these fields.

        Args:
          content: the result of `verified`.
          where: the checkpoint, for an error message.

        Raises:
          UserError: another version of this program wrote it, with another layout.
        """
        layout = content.get("layout", 1)
        if layout != RECORD_LAYOUT:
            raise UserError(
                f"{where} was saved by another version of this program (layout {layout}, this"
                f" version reads {RECORD_LAYOUT}): use that version, or another folder."
            )
        if "model" in content["config"]:  # of a run; earlier versions trained every modality
            content["config"].setdefault("modalities", list(MODALITIES))
            content["config"].setdefault("init", json.loads(json.dumps(_RANDOM)))
        return cls(**content)

    def changes(self, now: RunRecord) -> tuple[list[str], list[str]]:
        """Compares two records of a run.

        Returns:
          A text for each value that differs but may, and a text for each difference that prevents
          resuming.
        """
        found = [
            (key, f"{key.removeprefix('config.')} ({before!r}, now {after!r})")
            for part in ("config", "records", "versions")
            for key, before, after in differences(part, getattr(self, part), getattr(now, part))
        ]
        forbidden = [text for key, text in found if key.startswith(now.FIXED)]
        return [text for _, text in found if text not in forbidden], forbidden

    def refuse_other(self, now: RunRecord, directory: Any) -> None:
        """Checks that a run can resume from this record.

        Args:
          now: the record of the run that is to resume.
          directory: the checkpoints' folder, for an error message.

        Raises:
          UserError: the data, their order, or a value of `FIXED`, differ.
        """
        if forbidden := self.changes(now)[1]:
            raise UserError(
                f"{directory} holds a run with another {forbidden[0]}: give that value, or another"
                " --workdir for a new run."
            )
        if self.order_blocks != now.order_blocks:
            raise UserError(
                f"{directory} holds a run that read epochs of {self.records:,} records in another"
                " order, that of another version of this program: use that version, or give another"
                " --workdir for a new run."
            )
        if self.data_digest != now.data_digest:
            raise UserError(
                f"{directory} holds a run on other data (digest {self.data_digest}, now"
                f" {now.data_digest}): restore the records that it was trained on, or give another"
                " --workdir for a new run."
            )


def checksum(content: dict[str, Any]) -> int:
    """Returns the CRC-32 of a record's fields."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def differences(key: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted key, value before, value after) for each difference of nested dictionaries.

    Args:
      key: prefix of the keys, or an empty string.
      before: a dictionary or a value; None for a missing one.
      after: the same.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            below = f"{key}.{name}" if key else name
            yield from differences(below, before.get(name), after.get(name))
    elif before != after:
        yield key, before, after
