"""The page of pretraining runs, in one file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

import threadpoolctl

from data_pipelines.activity import Activity
from data_pipelines.errors import UserError
from data_pipelines.format.metadata import Metadata
from data_pipelines.read.dataset import Dataset
from data_pipelines.terminal import count
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.report import clip_sections, evaluation_results, pretraining_run, run_sections
from xkd_jax.report.clip_sections import Amounts
from xkd_jax.report.curves import curves
from xkd_jax.report.document import Section, document
from xkd_jax.report.elements import Child, Html, element
from xkd_jax.report.encoded_clips import Split, StudentOnData
from xkd_jax.report.pretraining_run import PretrainingRun
from xkd_jax.training.result_file import Result
from xkd_jax.training.run_results import result_files

_INTROS = {
    "data": "Central clips of training records. Unless the shards have waveforms, sound is computed"
    " from the spectrograms, with estimated phases.",
    "reconstructions": "The student gets the patches that are not masked, and predicts the others;"
    " the mean and deviation of a patch, which it does not predict, are those of the input. On the"
    " right, patches of the unmasked input are darker where the CLS token of the last block attends"
    " less (mean over heads).",
    "neighbors": "On the left the query, then the nearest clips. Neighbors of one modality are"
    " searched with the encoder's features, and the other modality with the outputs of the heads.",
    "features": "Clips that lie together have similar features. In a t-SNE, distances between"
    " groups and sizes of groups have no meaning.",
}  # fmt: skip
_TITLES = {
    "data": "Data",
    "reconstructions": "Reconstructions and attention",
    "neighbors": "Nearest neighbors and retrieval",
    "features": "Features in two dimensions",
}


def page(folders: Sequence[PurePath], results: Sequence[Result], amounts: Amounts) -> Html:
    """Returns the page of runs; missing parts of runs are listed on it.

    Args:
      folders: of the runs.
      results: results of evaluations that are shown, with those that belong to the runs.
      amounts: numbers of clips.

    Raises:
      UserError: a folder is not that of a pretraining run.
    """
    names = pretraining_run.names(folders)
    runs = [pretraining_run.read(f, n) for f, n in zip(folders, names, strict=True)]
    shown = {run.name: _Shown(run, amounts) for run in runs}
    # for arrays as small as these, threads would mostly wait for each other
    with threadpoolctl.threadpool_limits(1):
        for run in shown.values():
            run.fill()
    found = _with_results(runs, results, shown)
    metadata = {n: s.metadata for n, s in shown.items() if s.metadata is not None}
    classes = {name: len(m.class_names) for name, m in metadata.items()}
    runs = [shown[run.name].run for run in runs]
    sections = [
        Section("overview", "Overview", run_sections.overview(runs, metadata)),
        Section("curves", "Curves", _grid(curves(runs, classes))),
        *(_of_runs(name, shown) for name in _TITLES),
        Section(
            "results",
            "Results",
            [run_sections.probe_table(runs, metadata), run_sections.result_section(found)],
        ),
        Section("settings", "Settings and versions", run_sections.settings(runs)),
        Section("left-out", "Left out", run_sections.left_out(_missing(shown))),
    ]
    made = time.strftime("%Y-%m-%d %H:%M")
    lead = element("p", f"{count(len(runs), 'run')}, {made}.", class_="quiet")
    kept = [section for section in sections if _has_content(section)]
    return document(f"XKD report: {', '.join(names)}", lead, kept)


class _Shown:
    """The parts of a run that need its network and its data."""

    def __init__(self, run: PretrainingRun, amounts: Amounts):
        self.run, self._amounts = run, amounts
        self.missing = dict(run.missing)
        self.metadata: Metadata | None = None
        self.content: dict[str, Child] = {}

    def fill(self) -> None:
        """Makes the parts; reasons for those that can't be made are added to `missing`."""
        if self.run.checkpoint is None:
            self.missing[", ".join(_TITLES.values())] = "the network can't be read."
            return
        try:
            student = StudentOnData(self.run.checkpoint, self.run.folder)
            train = student.open(self.run.config.data.split)
        except UserError as error:
            self.missing[", ".join(_TITLES.values())] = str(error)
            return
        self.metadata = train.metadata
        self._check_digest(train)
        test = self._test(student)
        self._make(student, train, test)

    def _check_digest(self, train: Dataset) -> None:
        assert self.run.record is not None
        if self.run.record.data_digest not in ("", train.digest):
            text = "The data is not that of the training: its digest differs."
            self.run = self.run.with_warning(text)

    def _test(self, student: StudentOnData) -> Dataset | None:
        split = self.run.config.probe.split
        try:
            return student.open(split)
        except UserError as error:
            self.missing["clips that were not trained on"] = (
                f"the split {split} can't be read, so training clips are shown ({error})"
            )
            return None

    def _make(self, student: StudentOnData, train: Dataset, test: Dataset | None) -> None:
        config, amounts = self.run.config, self._amounts
        try:
            bank = student.encode(config.data.split, train, amounts.encoded)
            queries = bank
            if test is not None:
                queries = student.encode(config.probe.split, test, amounts.encoded)
        except UserError as error:  # a damaged record
            self.missing[", ".join(_TITLES.values())] = str(error)
            return
        across = bool(ActiveLosses.of(config.loss.weights).projected)
        if not across and len(config.modalities) > 1:
            self.missing["Retrieval"] = "no loss with a weight trains the heads."
        parts: dict[str, Callable[[], Child]] = {
            "data": lambda: clip_sections.data(student, bank, amounts.data),
            "reconstructions": lambda: clip_sections.reconstructions(
                student, queries, amounts.reconstructed
            ),
            "neighbors": lambda: clip_sections.neighbors(
                student, queries, bank, amounts.queries, across=across
            ),
            "features": lambda: _maps(queries),
        }
        for name, make in parts.items():
            with Activity(f"drawing {_TITLES[name].lower()}"):
                self.content[name] = make()
            if not self.content[name]:
                self.missing[_TITLES[name]] = "there are too few clips."


def _maps(queries: Split) -> Child:
    found = clip_sections.feature_maps(queries)
    return _grid(found) if found else None


def _of_runs(name: str, shown: Mapping[str, _Shown]) -> Section:
    """Returns a section with the part of each run that has it, side by side."""
    present = {run: s.content[name] for run, s in shown.items() if s.content.get(name)}
    if len(present) == 1 and len(shown) == 1:
        content: Child = list(present.values())
    else:
        cards = [
            element("div", element("h3", run), part, class_="card") for run, part in present.items()
        ]
        content = element("div", cards, class_="runs") if cards else None
    intro = element("p", _INTROS[name], class_="quiet")
    return Section(name, _TITLES[name], [intro, content] if content else None)


def _with_results(
    runs: Sequence[PretrainingRun], results: Sequence[Result], shown: Mapping[str, _Shown]
) -> list[Result]:
    """Returns results with those of the runs' checkpoints, and notes runs without any."""
    found = list(results)
    for run in runs:
        files = result_files(run.folder)
        if not files:
            shown[run.name].missing["evaluations"] = (
                "no folder beside the run whose name begins with the run's has the result of an"
                " evaluation of its checkpoints; give other folders to the command."
            )
            continue
        try:
            found += evaluation_results.load([str(file) for file in files])
        except UserError as error:
            shown[run.name].missing["evaluations"] = str(error)
    return list({result.file: result for result in found}.values())


def _missing(shown: Mapping[str, _Shown]) -> list[tuple[str, str, str]]:
    return [(n, what, why) for n, s in shown.items() for what, why in s.missing.items()]


def _grid(content: Sequence[Html]) -> Child:
    return element("div", content, class_="grid") if content else None


def _has_content(section: Section) -> bool:
    content = section.content
    return bool(content if isinstance(content, str) else content and [c for c in content if c])
