"""Sections of the page about runs as a whole: overview, results, settings, missing parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from data_pipelines.format.metadata import Metadata
from data_pipelines.terminal import count
from xkd_jax.config import dataclass_schema, listing
from xkd_jax.config.pretraining import Config
from xkd_jax.report import result_tables
from xkd_jax.report.elements import Child, Html, element, joined, table
from xkd_jax.report.pretraining_run import PretrainingRun
from xkd_jax.training.result_file import Result

_NAMED = 50  # classes listed by name


def overview(runs: Sequence[PretrainingRun], data: Mapping[str, Metadata]) -> Child:
    """Returns a card of facts and warnings for each run.

    Args:
      runs: of the page.
      data: {name of a run: metadata of its data set}; runs may be missing.
    """
    cards = []
    for run in runs:
        facts = element(
            "dl",
            [
                [element("dt", name), element("dd", value)]
                for name, value in _facts(run, data.get(run.name)).items()
            ],
            class_="facts",
        )
        warnings = [element("p", text, class_="warning") for text in run.warnings]
        cards.append(element("div", element("h3", run.name), facts, warnings, class_="card"))
    return element("div", cards, class_="runs")


def _facts(run: PretrainingRun, metadata: Metadata | None) -> dict[str, str]:
    config, record = run.config, run.record
    found = {"folder": str(run.folder), "method": _method(config)}
    if record is not None:
        length = config.length(record.records)
        found["length"] = f"step {record.step:,} of {length.steps:,}, batch {config.batch_size}"
        found["trained on"] = f"{count(record.records, 'record')} of the split {config.data.split}"
    if run.goodput is not None:
        found["goodput"] = run.goodput.described()
    if metadata is not None:
        found["data set"] = metadata.name
        if names := metadata.class_names:
            more = f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            found["classes"] = f"{len(names):,}: {', '.join(names[:_NAMED])}{more}"
    if record is not None:
        wanted = ("xkd_jax", "jax", "python")
        found["versions"] = ", ".join(
            f"{n} {record.versions[n]}" for n in wanted if n in record.versions
        )
    return found


def _method(config: Config) -> str:
    model = config.model
    if len(config.modalities) == 1:
        return f"{config.modalities[0]} only, {model.size}, {model.compute_dtype}"
    return f"{model.variant}, {model.size}, {model.compute_dtype}"


def probe_table(runs: Sequence[PretrainingRun], data: Mapping[str, Metadata]) -> Child:
    """Returns the linear probes of all runs before and after training, beside chance."""
    rows = []
    for run in runs:
        names = data[run.name].class_names if run.name in data else ()
        chance = f"{100 / len(names):.1f}" if names else "unknown"
        rows += [
            (run.name, network, f"{run.probes['before'].get(network, float('nan')):.1f}",
             element("strong", f"{value:.1f}"), chance)
            for network, value in run.probes.get("after", {}).items()
        ]  # fmt: skip
    if not rows:
        return None
    columns = ("run", "network", "before training", "after training", "chance")
    return table(columns, rows, "Linear probes on frozen features, top-1 accuracy in percent")


def result_section(results: Sequence[Result]) -> Child:
    """Returns tables of evaluations with the published numbers, and the classes of their data."""
    found: list[Child] = []
    for part in result_tables.tables(results):
        at = part.columns.index("ours") + 1
        columns = (*part.columns[:at], "chance", *part.columns[at:])
        rows = [
            (*row[:at], chance, *row[at:])
            for row, chance in zip(part.rows, part.chances, strict=True)
        ]
        found.append(table(columns, rows, part.title))
        found += [
            element("p", f"[{number}] {note}", class_="quiet")
            for number, note in enumerate(part.notes, 1)
        ]
    classes = dict.fromkeys((r.data or r.benchmark, r.class_names) for r in results)
    for name, names in classes:
        if names:
            summary = element("summary", f"{count(len(names), 'class')} of {name}")
            found.append(element("details", summary, element("p", ", ".join(names))))
    return found


def settings(runs: Sequence[PretrainingRun]) -> Child:
    """Returns the configs and versions of the runs; differences between them come first."""
    configs = [listing.flat(dataclasses.asdict(run.config)) for run in runs]
    columns = ("key", *(run.name for run in runs), "meaning")
    meanings = dataclass_schema.meanings(Config)
    rows = [
        (key, *(listing.written(config[key]) for config in configs), meaning)
        for key, meaning in meanings.items()
    ]
    differing = [row for row in rows if len(set(row[1:-1])) > 1]
    defaults = listing.flat(dataclasses.asdict(Config()))
    changed = [row for row in rows if any(c[row[0]] != defaults[row[0]] for c in configs)]
    found: list[Child] = []
    if len(runs) > 1:
        found.append(
            table(columns, differing, "Settings that differ between the runs")
            if differing
            else element("p", "All settings of the runs are equal.")
        )
    found.append(_folded("Settings that differ from the paper's", columns, changed))
    found.append(_folded("All settings", columns, rows))
    known = [run.record.versions if run.record is not None else {} for run in runs]
    libraries = dict.fromkeys(name for versions in known for name in versions)
    rows = [(name, *(versions.get(name, "") for versions in known)) for name in libraries]
    found.append(_folded("Versions", ("library", *columns[1:-1]), rows))
    return found


def _folded(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    return element(
        "details", element("summary", f"{title} ({len(rows)})"), table(columns, rows, title)
    )


def left_out(missing: Iterable[tuple[str, str, str]]) -> Html:
    """Returns the list of missing parts of the page, from (run, part, reason) each."""
    rows = list(missing)
    if not rows:
        return element("p", "Nothing: the runs have all parts of the page.")
    return joined(table(("run", "what", "why"), rows))
