"""Draws the plots of docs/results.md and writes its tables, from the numbers in docs/results/.

    pip install -e '.[docs]'
    python -m benchmarks.plot_results [--tables]

Each file `docs/results/NAME.csv` is a table, as printed by the command beside it in
docs/results.md. The page's text between `<!-- table: NAME -->` and `<!-- end -->` is replaced by
that table, and the plots are written to docs/images/ as SVG. With `--tables` only the tables are
written, which needs no matplotlib.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.command_parser import command_parser

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "docs/results"
PAGE = ROOT / "docs/results.md"
IMAGES = ROOT / "docs/images"

_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_GRAY, _BLUE, _ORANGE, _GREEN = "#9aa0a6", "#2f6db5", "#e07b39", "#3c9d6e"
_LABELS = {
    "untrained": "untrained",
    "reconstruction_video": "video reconstruction",
    "reconstruction": "reconstruction",
    "alignment": "+ alignment",
    "distillation": "+ distillation",
    "no_refinement": "all but refinement",
    "xkd": "all losses (xkd)",
    "mas": "mas",
    "local_teacher_view": "teachers with a local view",
}

TableRow = dict[str, str]


def read(name: str, folder: Path = NUMBERS) -> list[TableRow]:
    """Returns the rows of a table, each as {column: text}."""
    with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mean_and_spread(text: str) -> tuple[float, float]:
    """Parses `36.4 ± 0.8` to mean and standard deviation; without deviation it is 0."""
    mean, _, spread = text.partition(" ± ")
    return float(mean), float(spread or 0)


def markdown(rows: Sequence[TableRow]) -> str:
    """Returns a table in Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def with_tables(page: str, folder: Path = NUMBERS) -> str:
    """Returns the page with the tables of the files."""
    return _TABLE.sub(lambda m: m[1] + "\n" + markdown(read(m[2], folder)) + "\n" + m[3], page)


def students(name: str) -> dict[str, TableRow]:
    """Returns the students of a table, and the untrained network, by name."""
    return {
        row["pretrained with"]: row
        for row in read(name)
        if row["network"] in ("student", "untrained")
    }


def plot_demo(plt: Any) -> Any:
    """Plots the linear probes of one run of the demo, before and after training."""
    figure, axes = plt.subplots(figsize=(5.6, 2.4))
    rows, colors = read("demo"), (_GRAY, _ORANGE, _BLUE)
    moments = [column for column in rows[0] if column != "linear probe"]
    for i, (moment, color) in enumerate(zip(moments, colors, strict=True)):
        places = [n + 0.26 * (i - 1) for n in range(len(rows))]
        bars = axes.bar(places, [float(r[moment]) for r in rows], 0.24, color=color, label=moment)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(rows)), [row["linear probe"] for row in rows])
    axes.set(ylabel="linear probe, top-1 %", ylim=(0, 100))
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.2), frameon=False, fontsize=8)
    return figure


def plot_losses(plt: Any) -> Any:
    """Plots the probes of students by training losses."""
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(7.6, 3.2))
    found = students("voices")
    names = [name for name in _LABELS if name in found]
    for axes, modality in zip(panels, ("video", "audio"), strict=True):
        values = [mean_and_spread(found[name][modality]) for name in names]
        colors = [_BLUE if name == "xkd" else _GRAY for name in names]
        means, spreads = zip(*values, strict=True)
        axes.barh(range(len(names)), means, xerr=spreads, color=colors, ecolor="#444444")
        axes.set(xlabel=f"{modality}, linear probe, top-1 %", xlim=(0, 100))
        axes.set_yticks(range(len(names)), [_LABELS[name] for name in names])
    panels[0].invert_yaxis()
    return figure


def plot_steps(plt: Any) -> Any:
    """Plots the probe of the video student by length of training."""
    figure, axes = plt.subplots(figsize=(5.6, 2.9))
    (short,) = (row for row in read("voices_patches") if row["audio patch"] == "40 x 4")
    middle, longer = students("voices"), students("voices_longer")
    columns = {
        "xkd": "all losses",
        "distillation": "+ distillation",
        "reconstruction": "reconstruction",
    }
    for (row, column), color in zip(columns.items(), (_BLUE, _GREEN, _ORANGE), strict=True):
        texts = [short[column], middle[row]["video"], longer[row]["video"]]
        means, spreads = zip(*map(mean_and_spread, texts), strict=True)
        axes.errorbar(
            [1200, 2400, 4800],
            means,
            spreads,
            marker="o",
            capsize=3,
            color=color,
            label=_LABELS[row],
        )
    axes.set_xticks([1200, 2400, 4800], ["1,200\n(1 seed)", "2,400\n(3 seeds)", "4,800\n(1 seed)"])
    axes.set(xlabel="steps of 64 clips", ylabel="video, top-1 %", ylim=(50, 92))
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_information(plt: Any) -> Any:
    """Plots the mutual information between clip and output of the audio teacher during a run."""
    figure, axes = plt.subplots(figsize=(5.6, 2.9))
    colors = (_GREEN, _GRAY, _BLUE, _ORANGE)
    for row, color in zip(read("voices_information"), colors, strict=True):
        name, *texts = row.values()
        means, spreads = zip(*map(mean_and_spread, texts), strict=True)
        axes.errorbar(range(1, 9), means, spreads, capsize=2, color=color, label=_LABELS[name])
    axes.set(xlabel="eighth of the run (2,400 steps)", ylabel="information, nats", ylim=(0, 3.2))
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def plot_settings(plt: Any) -> Any:
    """Plots the probe of the video student with one changed setting."""
    figure, axes = plt.subplots(figsize=(7.6, 3.8))
    rows = sorted(read("settings"), key=lambda row: float(row["video"]), reverse=True)
    names = [row["changed (from)"].partition(" (")[0].partition(":")[0] for row in rows]
    values = [float(row["video"]) for row in rows]
    bars = axes.barh(names, values, color=[_BLUE if n == "no change" else _GRAY for n in names])
    axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.set(xlabel="video, linear probe, top-1 % (one seed)", xlim=(0, 80))
    return figure


PLOTS = {
    "demo": plot_demo,
    "losses": plot_losses,
    "steps": plot_steps,
    "information": plot_information,
    "settings": plot_settings,
}


def draw() -> None:
    """Writes every plot; the same numbers give the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {
        "svg.hashsalt": "xkd_jax",
        "font.size": 9,
        "figure.constrained_layout.use": True,
    }
    plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
    for name, plot in PLOTS.items():
        figure = plot(plt)
        figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        plt.close(figure)
        print(f"written {(IMAGES / name).relative_to(ROOT)}.svg")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command_parser("benchmarks.plot_results", __doc__)
    parser.add_argument("--tables", action="store_true", help="write the tables alone")
    arguments = parser.parse_args(argv)
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    if not arguments.tables:
        draw()


if __name__ == "__main__":
    main()
