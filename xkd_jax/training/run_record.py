"""What a checkpoint says of the run that it belongs to."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES
from xkd_jax.training.versions import versions

RECORD_LAYOUT = 2


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run at one step.

    step: the number of updates made.
    config: the run's, as nested dictionaries of what JSON knows.
    records: number of records in the data set.
    data_digest: of the content of the data set; see `Dataset.digest`.
    versions: {name: version} of what computes; see `versions.versions`.
    digests: {item: {path of an array: its digest}}; see `digest.digests`.
    layout: of this record.
    """

    step: int
    config: dict[str, Any]
    records: int
    data_digest: str
    versions: dict[str, str]
    digests: dict[str, dict[str, int]]
    layout: int = RECORD_LAYOUT

    # What a resumed run can't change: it decides the shapes of the state or which data belong to
    # which step. So does the content of the data.
    FIXED: ClassVar[tuple[str, ...]] = (
        "config.seed", "config.batch_size", "config.model", *(f"config.{m}" for m in MODALITIES),
        "config.data.split", "config.data.shuffle_window", "config.data.drop_last", "records",
    )  # fmt: skip

    @classmethod
    def of(cls, config: dict[str, Any], records: int, data_digest: str) -> Self:
        """The record of a run with this config, before its first step."""
        return cls(0, json.loads(json.dumps(config)), records, data_digest, versions(), {})

    def to_json(self) -> dict[str, Any]:
        """The record with a checksum of itself."""
        content = dataclasses.asdict(self)
        return {**content, "crc32": _checksum(content)}

    @staticmethod
    def verified(content: Any) -> dict[str, Any]:
        """Returns what `to_json` made, without its checksum.

        Raises:
          ValueError: it is not what was written.
        """
        content = dict(content)
        if content.pop("crc32", None) != _checksum(content):
            raise ValueError("its record of the run is not what was written")
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any], where: Any) -> RunRecord:
        """The record that `to_json` made.

        Args:
          content: `verified`.
          where: the checkpoint, for an error message.

        Raises:
          UserError: another version of this program wrote it, in another layout.
        """
        layout = content.get("layout", 1)
        if layout != RECORD_LAYOUT:
            raise UserError(
                f"{where} was saved by another version of this program (its record of the run has"
                f" layout {layout}, and this version reads layout {RECORD_LAYOUT}): use that"
                " version, or another folder."
            )
        return cls(**content)

    def changes(self, now: RunRecord) -> tuple[list[str], list[str]]:
        """What is another value now: what may be, and what must not if the run is to go on."""
        found = [
            (key, f"{key.removeprefix('config.')} ({before!r}, now {after!r})")
            for part in ("config", "records", "versions")
            for key, before, after in differences(part, getattr(self, part), getattr(now, part))
        ]
        forbidden = [text for key, text in found if key.startswith(now.FIXED)]
        return [text for _, text in found if text not in forbidden], forbidden

    def refuse_other(self, now: RunRecord, directory: Any) -> None:
        """Raises:
        UserError: a run as it is `now` can't go on from this one.
        """
        if forbidden := self.changes(now)[1]:
            raise UserError(
                f"{directory} holds a run with another {forbidden[0]}: give that value, or another"
                " --workdir for a new run."
            )
        if self.data_digest != now.data_digest:
            raise UserError(
                f"{directory} holds a run on other data: the records were replaced or changed since"
                f" (digest {self.data_digest}, now {now.data_digest}), so put the old ones back, or"
                " give another --workdir for a new run."
            )


def _checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def differences(key: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted key and both values of what differs in two dictionaries.

    Keys are those below `key`, or whole ones where that is empty; what a dictionary lacks is None.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            below = f"{key}.{name}" if key else name
            yield from differences(below, before.get(name), after.get(name))
    elif before != after:
        yield key, before, after
