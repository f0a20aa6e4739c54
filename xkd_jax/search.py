"""Finds the windows of files that are most like a file of video or sound.

    python -m xkd_jax.search --features=FEATURES query.mp4

FEATURES is a folder of parquet files by python -m xkd_jax.embed. The query is encoded by the same
weights, and its features are compared, by cosine, with those of every window: of the same modality
and of the other. Prints the nearest ones, and with --page=PAGE.html writes a page that plays them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax import compilation_cache
from xkd_jax.inference import embedding, feature_files, loading
from xkd_jax.inference.windows import EmbedOptions
from xkd_jax.report.document import Section, document
from xkd_jax.report.elements import Html, element, player, table

_MOST = 1000


@dataclasses.dataclass(frozen=True)
class Match:
    """One window.

    Attributes:
      query: modality of the query.
      found: modality of the window's features.
      cosine: of both features.
      path: of the file.
      start: of the window, in seconds.
      end: of the window, in seconds.
    """

    query: Modality
    found: Modality
    cosine: float
    path: str
    start: float
    end: float


def nearest(query: dict[Modality, np.ndarray], rows: dict[str, Any], count: int) -> list[Match]:
    """Returns the nearest windows for each pair of modalities, best first.

    Args:
      query: float32 [width] of each modality that the query has.
      rows: as `feature_files.read_rows` returns them.
      count: windows for each pair.
    """
    found = []
    for asked, vector in query.items():
        for modality in MODALITIES:
            features = rows.get(modality)
            if features is None or features.shape[1] != len(vector):
                continue
            lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(vector)
            cosines = features @ vector / np.maximum(lengths, 1e-12)
            order = np.argsort(-np.nan_to_num(cosines, nan=-2), kind="stable")
            found += [
                Match(
                    asked, modality, float(cosines[i]), rows["path"][i],
                    float(rows["start"][i]), float(rows["end"][i]),
                )
                for i in order[:count]
                if np.isfinite(cosines[i])
            ]  # fmt: skip
    return found


def page(query: str, matches: Sequence[Match]) -> Html:
    """Returns a page of HTML that plays the query and the windows, by their files' addresses."""
    sections = []
    for pair in dict.fromkeys((m.query, m.found) for m in matches):
        rows = [
            (
                f"{m.cosine:.4f}",
                m.path,
                f"{m.start:.2f} to {m.end:.2f} s",
                _player(m.path, m.found, m.start, m.end),
            )
            for m in matches
            if (m.query, m.found) == pair
        ]
        title = f"{pair[1].capitalize()} nearest to the query's {pair[0]}"
        content = table(("cosine", "file", "window", "play"), rows)
        sections.append(Section("-".join(pair), title, content))
    lead = element("div", _player(query, "video", 0, None), class_="player")
    return document(f"Nearest to {query}", lead, sections, "data: file: http: https:")


def _player(path: str, modality: str, start: float, end: float | None) -> Html:
    address = path if storage.is_remote(path) else pathlib.Path(os.path.abspath(path)).as_uri()
    stop = "" if end is None else f",{end:g}"
    tag = "audio" if modality == "audio" else "video"
    name = f"{os.path.basename(path)} from {start:g} s"
    return player(tag, f"{address}#t={start:g}{stop}", name, class_="player")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("xkd_jax.search", __doc__)
    add = parser.add_argument
    add("query", help="file of video or sound")
    add("--features", required=True, help="folder of python -m xkd_jax.embed")
    add("--checkpoint", action="append", help="the same weights, if they have moved")
    add("--count", type=int, default=10, help="windows for each pair of modalities")
    add("--page", default="", help="HTML file to write, which plays the windows")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    try:
        matches = _search(args)
        for match in matches:
            terminal.print_result(
                f"{match.query} -> {match.found}  {match.cosine:.4f}  {match.path}"
                f"  {match.start:.2f} to {match.end:.2f} s"
            )
        if args.page:
            with storage.writer(args.page) as file:
                file.write(page(args.query, matches).encode())
    except UserError as error:
        terminal.print_error(f"error: {error}")
        return error.status
    return 0


def _search(args: argparse.Namespace) -> list[Match]:
    if not 1 <= args.count <= _MOST:
        raise UserError(f"--count={args.count}: give 1 to {_MOST}.")
    settings = feature_files.read_settings(args.features)
    rows = feature_files.read_rows(args.features)
    loaded = {**settings["loaded"], **({"source": args.checkpoint} if args.checkpoint else {})}
    compilation_cache.enable(terminal.print_error)
    model = loading.load(**loaded)
    if model.digest != settings["digest"]:
        raise UserError(
            f"{args.features} was made with other weights than {model.origin}: give the weights"
            " of the features by --checkpoint."
        )
    found = embedding.embed(model, args.query, EmbedOptions(pool="file"))
    vectors = {m: getattr(found, m) for m in MODALITIES}
    query = {m: vector[0] for m, vector in vectors.items() if vector is not None}
    return nearest(query, rows, args.count)


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
