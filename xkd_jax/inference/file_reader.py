"""Decodes a file to records, without JAX, so that worker processes can do it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from data_pipelines.build import ingest
from data_pipelines.build.catalogs.catalog import Item
from data_pipelines.format import storage
from data_pipelines.loader_config import Modality


@dataclasses.dataclass(frozen=True)
class Reader:
    """Decodes the streams of a file that a model has encoders for; can be pickled."""

    options: ingest.IngestOptions

    def __call__(
        self, path: str, alive: Callable[[], None] = lambda: None, waiting: str | None = None
    ) -> ingest.FileResult:
        """Returns the records of a file, or why there are none; see `ingest.ingest`."""
        directory, name = _split(path)
        found = self._read(directory, name, alive, waiting, self.options)
        other: dict[str, Modality] = {"no audio": "audio", "no video": "video"}
        media = self.options.media
        if found.reason in other and media.video and media.audio:
            without = dataclasses.replace(media, **{other[found.reason]: False})
            options = dataclasses.replace(self.options, media=without)
            again = self._read(directory, name, alive, waiting, options)
            if not again.reason:
                return again
            both = f"{found.detail}, and {again.detail}"
            return ingest.FileResult(reason=again.reason, detail=both)
        return found

    def _read(
        self,
        directory: str,
        name: str,
        alive: Callable[[], None],
        waiting: str | None,
        options: ingest.IngestOptions,
    ) -> ingest.FileResult:
        item = Item(name, name)
        return ingest.ingest(item, alive, directory=directory, options=options, waiting=waiting)


def _split(path: str) -> tuple[str, str]:
    """The folder and the name of a path or URL, as `ingest` takes them."""
    path = storage.as_text(path)
    directory, _, name = path.rpartition("/")
    return directory or ("/" if path.startswith("/") else "."), name
