"""Sections of the page that show clips: data, reconstructions with attention, neighbors, map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import threadpoolctl

from data_pipelines.loader_config import MODALITIES, LoaderConfig, Modality
from data_pipelines.terminal import count
from xkd_jax.report import browser_formats
from xkd_jax.report.charts import scatter
from xkd_jax.report.clip_media import ClipMedia, samples_of, sound, video_player
from xkd_jax.report.elements import Child, Html, element
from xkd_jax.report.encoded_clips import Split, StudentOnData
from xkd_jax.report.nearest import Nearest, searches, varied
from xkd_jax.training.pictures.drawing import Drawn, drawn


@dataclasses.dataclass(frozen=True)
class Amounts:
    """Numbers of clips on the page.

    encoded: of each split, at most.
    data: in the section on the data.
    reconstructed: with reconstructions and attention, at most 16.
    queries: of each gallery of neighbors.
    """

    encoded: int = 300
    data: int = 8
    reconstructed: int = 6
    queries: int = 5


DEFAULT = Amounts()
_LINE = 128  # gray level of lines between panels
_LEAST_MAPPED = 10  # clips; fewer are no map
_PANELS = {
    "original": "input",
    "masked": "masked",
    "predicted": "reconstruction",
    "attention": "attention",
}


def data(student: StudentOnData, split: Split, amount: int) -> Child:
    """Returns players of a few training clips, with their spectrograms.

    Args:
      student: a run's student, for its views.
      split: the training split.
      amount: number of clips.
    """
    chosen = [int(split.records[p]) for p in varied(split, amount)]
    clips = {
        record: ClipMedia(student.config, split.dataset, record, views)
        for record, views in student.views(split.dataset, chosen)
    }
    both = len(student.config.modalities) > 1
    first = "video" if both else student.config.modalities[0]
    cards = []
    for record in chosen:
        clip = clips[record]
        shown = [clip.shown(first), clip.spectrogram if both else None]
        cards.append(_media(shown, clip.title))
    return element("div", cards, class_="grid", style="--least: 8rem")


def reconstructions(student: StudentOnData, split: Split, amount: int) -> Child:
    """Returns input, masked input, reconstruction and attention of a few clips side by side.

    Args:
      student: a run's student.
      split: of the clips.
      amount: number of clips.
    """
    chosen = split.records[sorted(varied(split, amount))]
    seen = student.see(split.dataset, chosen)
    pictures = {m: drawn(student.config.modality(m), *parts) for m, parts in seen.items()}
    order = [m for m in student.config.modalities if m in seen]
    figures = []
    for row, record in enumerate(chosen):
        clip = ClipMedia(
            student.config, split.dataset, int(record), {m: s.view[row] for m, s in seen.items()}
        )
        shown = [_panels(student.config, m, pictures[m], seen[m], row, clip) for m in order]
        figures.append(_media(shown, clip.title))
    return element("div", figures, class_="grid", style="--least: 26rem")


def _panels(
    config: LoaderConfig, modality: Modality, shown: Drawn, seen: Any, row: int, clip: ClipMedia
) -> Child:
    """Returns one image or video with a panel for each item to compare, below their names."""
    parts = {name: getattr(shown, name) for name in _PANELS}
    present = {_PANELS[name]: images[row] for name, images in parts.items() if images is not None}
    heads = element("div", [element("span", name) for name in present], class_="panels")
    joined = np.concatenate([_framed(images) for images in present.values()], axis=2)
    joined = browser_formats.scaled(joined[:, :, : -_line(joined)])
    title = f"{', '.join(present)} of {clip.title}"
    if modality == "video":
        return [heads, video_player(joined, config, title, clip.samples)]
    image = element(
        "img",
        src=browser_formats.png(joined[0]),
        alt=f"Spectrograms: {title}",
    )
    heard = [sound(clip.samples, config.audio.sample_rate, f"Input: {clip.title}", "Input")]
    if seen.views is not None:
        again = samples_of(config.audio, seen.views.predicted[row])
        heard.append(
            sound(
                again, config.audio.sample_rate, f"Reconstruction: {clip.title}", "Reconstruction"
            )
        )
    players = [element("div", player) for player in heard]
    return [heads, image, element("div", players, class_="grid", style="--least: 9rem")]


def _framed(images: np.ndarray) -> np.ndarray:
    """Returns images [time, height, width, 3] with a gray line at the right."""
    return np.pad(images, [(0, 0)] * 2 + [(0, _line(images)), (0, 0)], constant_values=_LINE)


def _line(images: np.ndarray) -> int:
    """Returns the width of that line in pixels."""
    return max(1, images.shape[1] // 100)


def neighbors(
    student: StudentOnData, queries: Split, bank: Split, amount: int, *, across: bool
) -> Child:
    """Returns galleries of the nearest clips within and, with `across`, across modalities.

    Args:
      student: a run's student.
      queries: clips whose neighbors are found.
      bank: clips among which they are found.
      amount: number of queries.
      across: whether modalities are compared with each other.
    """
    found = [search for search in searches(queries, bank) if search.order.shape[1]]
    found = [search for search in found if across or search.query == search.found]
    chosen = varied(queries, amount)
    wanted: dict[tuple[str, int], Split] = {}
    for position in chosen:
        wanted[queries.name, int(queries.records[position])] = queries
        for search in found:
            records = search.bank.records[search.order[position]]
            wanted |= {(search.bank.name, int(r)): search.bank for r in records}
    clips = _clips(student, wanted)
    return [_gallery(clips, queries, chosen, search) for search in found]


def _clips(
    student: StudentOnData, wanted: Mapping[tuple[str, int], Split]
) -> dict[tuple[str, int], ClipMedia]:
    """Returns each clip once, by the name of its split and its record."""
    found = {}
    for split in {split.name: split for split in wanted.values()}.values():
        records = [record for name, record in wanted if name == split.name]
        for record, views in student.views(split.dataset, records):
            clip = ClipMedia(student.config, split.dataset, record, views)
            found[split.name, record] = clip
    return found


def _gallery(
    clips: Mapping[tuple[str, int], ClipMedia],
    queries: Split,
    chosen: Sequence[int],
    search: Nearest,
) -> Child:
    bank = search.bank
    rows = []
    for position in chosen:
        own = queries.name, int(queries.records[position])
        cells = [element("div", _media(clips[own].shown(search.query), clips[own].title),
                         class_="query")]  # fmt: skip
        for at, cosine in zip(search.order[position], search.cosines[position], strict=True):
            other = bank.name, int(bank.records[at])
            mark = _mark(queries.classes[position], bank.classes[at], own == other)
            near, score = clips[other], f"cosine {cosine:.3f}"
            cells.append(_media(near.shown(search.found), near.title, mark, score))
        rows.append(
            element("div", cells, class_="row", tabindex="0", role="group",
                    aria_label=f"Nearest to {clips[own].title}")
        )  # fmt: skip
    return [element("h3", _heading(search)), element("p", _score(search)), rows]


def _heading(search: Nearest) -> str:
    if search.query == search.found:
        return f"Nearest neighbors: {search.query}"
    return f"Retrieval: {search.found} from {search.query}"


def _score(search: Nearest) -> Child:
    space = "features" if search.query == search.found else "outputs of the heads"
    text = f"By cosine of {space}, among {count(len(search.bank.records), 'clip')} of the split"
    text += f" {search.bank.name}."
    if search.same is None or search.chance is None:
        return text
    return (
        f"{text} {search.same:.0%} of the {search.order.shape[1]} nearest clips have the query's"
        f" class; by chance it would be {search.chance:.0%}."
    )


def _mark(query: frozenset[int], other: frozenset[int], itself: bool) -> Child:
    if itself:
        return element("strong", "✓ same clip", class_="same")
    if not query:
        return None
    same = bool(query & other)
    return element(
        "strong", "✓ same class" if same else "✗ other class", class_="same" if same else "other"
    )


def feature_maps(split: Split) -> Sequence[Html]:
    """Returns the features of each modality in two dimensions, colored by class."""
    from sklearn.manifold import TSNE  # imported here because that takes long

    if len(split.records) < _LEAST_MAPPED:
        return []
    names = split.dataset.metadata.class_names
    groups = np.array([min(c) if len(c) == 1 else -1 for c in split.classes])
    groups = np.where(groups < len(names), groups, -1)
    found = []
    for modality in (m for m in MODALITIES if m in split.features):
        rows = split.features[modality]
        perplexity = min(30, (len(rows) - 1) // 3)
        placed = TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0)
        with threadpoolctl.threadpool_limits(1):  # more threads wait for each other
            points = placed.fit_transform(rows.astype(np.float64))
        caption = f"t-SNE of {count(len(rows), 'clip')} of the split {split.name}"
        found.append(scatter(f"Features of {modality}", points, groups, names, caption))
    return found


def _media(content: Child, *caption: Child) -> Html:
    lines = [element("span", line) for line in caption if line]
    return element("figure", content, element("figcaption", lines), class_="media")
