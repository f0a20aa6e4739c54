"""An evaluation: data, network, protocol and result file."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from jax.sharding import Mesh

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.terminal import count, escaped
from xkd_jax.config import listing
from xkd_jax.config.evaluation import TRAINED, EvalConfig, Protocol
from xkd_jax.evaluate import data_set, frozen, pretrained, result, splits
from xkd_jax.evaluate import workdir as folders
from xkd_jax.evaluate.classify import Classification, fixed_settings, smaller_steps
from xkd_jax.evaluate.eval_clips import Use
from xkd_jax.evaluate.feature_store import FeatureSet
from xkd_jax.evaluate.features import Extraction
from xkd_jax.evaluate.fold_scores import FoldScores
from xkd_jax.evaluate.splits import Benchmark, Fold
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.processes import lost_peer_errors, main_activity, print_on_main, write_once
from xkd_jax.training import memory
from xkd_jax.training.faults import run_lease

_NAMED_CLASSES = 10  # at most these are in the first lines; result.json has all


@lost_peer_errors()
def evaluate(
    config: EvalConfig, workdir: PurePath, written: EvalConfig | None = None
) -> dict[str, Any]:
    """Runs `config` in `workdir` and returns the content of its result file.

    Stored features and checkpoints of classifiers are reused; SVMs, nearest neighbors and metrics
    are computed again.

    Args:
      config: of the evaluation.
      workdir: folder of the evaluation.
      written: config of the file without overrides, to print differences; None: not known.

    Raises:
      UserError: checkpoint, data, mesh or folders don't fit the config, or another run uses the
        workdir.
      StoppedError: the program was preempted; the classifier's state is saved.
      LostProcessError: the connection to another process broke.
    """
    folders.check(workdir, config.features)
    smaller = smaller_steps(config.protocol, config.batch_size, config.fit.accumulation_steps)
    with run_lease.held(workdir) as check_lease, memory.exhaustion(smaller):
        if written is not None:
            print_on_main(listing.flags_line(written, config))
        found = _evaluate(config, workdir, check_lease)
    print_on_main(f"next      python -m xkd_jax.report {shlex.quote(str(workdir))}")
    return found


def _evaluate(
    config: EvalConfig, workdir: PurePath, check_lease: Callable[[], None]
) -> dict[str, Any]:
    data_set.check(config.data.dir, config.benchmark, config.protocol, config.modalities)
    mesh = mesh_lib.make_mesh(config.mesh)
    with main_activity("reading the checkpoint"):
        source = pretrained.load(config, mesh)
    views = pretrained.viewing(config, source.views)
    with main_activity("reading the labels of the records"):
        labeled = config.protocol != "retrieval"
        benchmark = splits.open_benchmark(views, config.data, labeled=labeled)
    if benchmark.multi_label:
        _check_labels(config.benchmark, config.protocol)
    data = data_set.DataSummary.of(benchmark)
    result.refuse_other(config, source, data, workdir)
    print_on_main(_describe(config, source, benchmark) + data.describe())
    if not _has_classifiers(workdir):  # they may have other settings, and be refused
        write_once(workdir / "config.json", dataclasses.asdict(config))
    if config.protocol in TRAINED:
        protocol = classification_of(config, source, views, mesh, benchmark, workdir, check_lease)
        scores = _by_fold(benchmark, protocol)
    else:
        folder = storage.location(config.features) if config.features else workdir / "features"
        extraction = Extraction.create(
            config.network, config.output, config.modalities, config.clips, source, views, mesh,
            folder,
        )  # fmt: skip
        scores = _on_features(config, benchmark, extraction)
    check_lease()
    metric = _metric(config.protocol, benchmark)
    measured = result.Measured(metric, scores, data_set.chance(benchmark, metric))
    return result.finish(config, source, data, measured, workdir)


def classification_of(
    config: EvalConfig,
    source: pretrained.Pretrained,
    views: LoaderConfig,
    mesh: Mesh,
    benchmark: Benchmark,
    workdir: PurePath,
    check_lease: Callable[[], None],
) -> Classification:
    """Returns the trainings of a config.

    Args:
      config: of the evaluation.
      source: the encoders.
      views: the config of the views (`pretrained.viewing`).
      mesh: of all devices.
      benchmark: the data.
      workdir: folder of the evaluation.
      check_lease: as in `Classification`.
    """
    return Classification(
        protocol=config.protocol,
        modality=config.modalities[0],
        fit=config.fit,
        clips=config.clips,
        save=config.save,
        log_every=config.log_every,
        train_fraction=config.train_fraction,
        pretrained=source,
        viewing=views,
        mesh=mesh,
        benchmark=benchmark,
        workdir=workdir,
        fixed=fixed_settings(config),
        listed=listing.table(config),
        check_lease=check_lease,
    )


def _has_classifiers(workdir: PurePath) -> bool:
    folds = (n for n in storage.subfolders(str(workdir)) if n.startswith("fold"))
    return any(storage.is_folder(str(workdir / name / "checkpoints")) for name in folds)


def _check_labels(benchmark: str, protocol: Protocol) -> None:
    if protocol in ("svm", "knn"):
        raise UserError(
            f"{benchmark or 'The benchmark'} has several labels for a record: give"
            " --config.protocol=linear."
        )


def _metric(protocol: Protocol, benchmark: Benchmark) -> str:
    if protocol == "retrieval":
        return "recall at 1"
    return "mAP" if benchmark.multi_label else "top-1"


def _by_fold(benchmark: Benchmark, protocol: Callable[[Fold], FoldScores]) -> dict[int, FoldScores]:
    """Returns the scores of each fold, by its number."""
    scores = {}
    for fold in benchmark.folds:
        with main_activity("fitting and testing"):
            scores[fold.number] = protocol(fold)
        if fold.number:
            print_on_main(f"fold {fold.number}    {scores[fold.number].value:.2f} %")
    return scores


def _on_features(
    config: EvalConfig, benchmark: Benchmark, extraction: Extraction
) -> dict[int, FoldScores]:
    """Extracts the features of all folds once, and evaluates each fold."""

    def extract(part: Use, clips: Use) -> FeatureSet:
        dataset, name = getattr(benchmark, part), getattr(benchmark, f"{part}_name")
        content = getattr(benchmark, f"{part}_index").digest
        with main_activity(f"encoding {clips} clips"):
            return extraction.extract(dataset, content, name, benchmark.records(part), clips)

    test = extract("test", "test")
    if config.protocol == "retrieval":
        return _by_fold(benchmark, lambda fold: frozen.retrieve(test, fold.test))
    # kNN uses test clips of the training records, an SVM augmented clips.
    train = extract("train", "test" if config.protocol == "knn" else "train")
    chosen: dict[str, Any] = {"train_fraction": config.train_fraction, "seed": config.seed}
    score: Callable[..., FoldScores] = (
        frozen.SvmProtocol(
            config.svm, benchmark.classes, extraction.mesh, held_out=config.data.held_out, **chosen
        )
        if config.protocol == "svm"
        else functools.partial(frozen.knn, config.knn, benchmark.classes, **chosen)
    )
    return _by_fold(benchmark, lambda fold: score(train, test, fold.train, fold.test))


def _describe(config: EvalConfig, source: pretrained.Pretrained, benchmark: Benchmark) -> str:
    parts = [escaped(benchmark.train.metadata.name), _classes(benchmark)]
    if len(benchmark.folds) > 1:
        parts.append(count(len(benchmark.folds), "fold"))
    if config.protocol != "retrieval":
        percent = 100 * config.train_fraction
        part = f"{percent:g} % of " if percent < 100 else ""
        parts.append(f"trained on {part}{_records(benchmark, 'train')}")
    parts.append(f"tested on {_records(benchmark, 'test')}")
    lines = [
        f"network   {escaped(str(source.origin))}",
        *(f"input     {m} {source.views.modality(m).described}" for m in config.modalities),
        f"data      {', '.join(parts)}",
    ]
    if (
        chance := data_set.chance(benchmark, metric := _metric(config.protocol, benchmark))
    ) is not None:
        lines.append(f"chance    {metric} of a random guess {chance:.2f} %")
        if metric == "top-1":
            lines[-1] += f", of the largest class {data_set.largest_class(benchmark):.2f} %"
    return "\n".join(lines)


def _classes(benchmark: Benchmark) -> str:
    names = benchmark.train.metadata.class_names
    named = f" ({', '.join(map(escaped, names))})" if 0 < len(names) <= _NAMED_CLASSES else ""
    return count(len(names), "class") + named


def _records(benchmark: Benchmark, use: Use) -> str:
    """Returns the numbers of records of all folds: `20, 20, 21 records`."""
    *first, last = [len(getattr(fold, use)) for fold in benchmark.folds]
    return "".join(f"{number:,}, " for number in first) + count(last, "record")
