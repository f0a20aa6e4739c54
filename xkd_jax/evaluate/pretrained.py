"""The evaluated encoders, and the config of an evaluation's views."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipelines.errors import UserError
from data_pipelines.format import metadata, storage
from data_pipelines.loader_config import MODALITIES, DataConfig, LoaderConfig, Modality
from xkd_jax.config.architecture import ModelConfig
from xkd_jax.config.encoder import loader_config
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.config.pretraining import Config
from xkd_jax.config.stated_input import stated
from xkd_jax.evaluate.network import Network
from xkd_jax.inference import loading, run_checkpoint
from xkd_jax.inference.formats.format import EncoderWeights, Request
from xkd_jax.inference.formats.given import Given
from xkd_jax.inference.loaded import Origin
from xkd_jax.method.random_streams import INITIALIZE, stream_key
from xkd_jax.method.state_shardings import parameter_shardings
from xkd_jax.method.train_state import construct, parameters
from xkd_jax.networks.student import Student
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel import agreement
from xkd_jax.parallel.processes import print_on_main

_WORDING = run_checkpoint.Wording("--config.checkpoint=RUN", "--config.step=N")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The evaluated encoders.

    Attributes:
      origin: source of their weights.
      identity: identifies the weights, of JSON types: step of a run's checkpoint and CRC-32 of its
        record, which contains the digests of its arrays; or the digest of a file's encoders.
      network: the encoders as functions of parameters.
      parameters: {"encoders": {modality: tree of `Encoder`}, "heads": {modality: tree of `Head`}};
        {} for `log_mel`.
      views: lengths and rates of their inputs.
      run: config of the pretraining run; None: the weights of a file.
    """

    origin: Origin
    identity: dict[str, Any]
    network: Network
    parameters: Tree
    views: LoaderConfig
    run: Config | None = None


def load(config: EvalConfig, mesh: Mesh) -> Pretrained:
    """Reads the encoders of an evaluation, sharded over the mesh.

    Raises:
      UserError: the weights do not exist, can't be used, or lack what the evaluation needs.
    """
    if not config.checkpoint:
        raise UserError(
            "checkpoint is empty: give --config.checkpoint=RUN, the folder of a pretraining run,"
            " or a file of weights."
        )
    sources = loading.several(config.checkpoint)
    files = [loading.file_of_weights(source) for source in sources]
    if files == [None]:
        return _of_run(config, mesh)
    if None in files:
        raise UserError(
            f"{sources[files.index(None)]} is no file or exported folder of weights: give only"
            " these, or one run alone, by --config.checkpoint."
        )
    return _of_files(config, [file for file in files if file], mesh)


def _of_files(config: EvalConfig, files: list[str], mesh: Mesh) -> Pretrained:
    if config.network == "untrained" or config.output == "head":
        key, value = ("network", "student") if config.output == "encoder" else ("output", "encoder")
        lacking = "initial parameters" if config.output == "encoder" else "projection heads"
        raise UserError(
            f"{config.checkpoint} has no {lacking}, which only a run has: give"
            f" --config.{key}={value}, or a run by --config.checkpoint."
        )
    network = "teacher" if config.network == "teacher" else "student"
    request = Request(network, _given(config), alone=len(files) == 1)
    found = loading.load_sources(files, request, config.step, _WORDING, print_on_main)
    found = found.only(config.modalities, _remedy(config, list(found.encoders)))
    if config.protocol == "retrieval":
        _check_widths(found.encoders)
    identity = {"digest": found.digest}
    agreement.require({f"weights {config.checkpoint}": identity})
    encoders = {m: weights.config for m, weights in found.encoders.items()}
    evaluated = Network(encoders, ModelConfig(compute_dtype=found.compute_dtype))
    params: Tree = {}
    if config.network != "log_mel":
        placed = {
            m: jax.device_put(weights.params, evaluated.shardings(m, mesh))
            for m, weights in found.encoders.items()
        }
        params = {"encoders": placed, "heads": {}}
    views = loader_config(encoders, found.short_side)
    return Pretrained(found.origin, identity, evaluated, params, views)


def _given(config: EvalConfig) -> Given:
    """The settings of the encoders that the config gives."""
    video, audio = stated(config.video), stated(config.audio)
    return Given(config.heads or None, video, audio, flags="--config.")


def _check_widths(encoders: Mapping[Modality, EncoderWeights]) -> None:
    widths = {m: weights.config.transformer.width for m, weights in encoders.items()}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{width} of {m}" for m, width in widths.items())
        raise UserError(
            f"The encoders have features of different widths ({listed}), and retrieval compares"
            " them: give encoders of one width, or another --config.protocol."
        )


def _of_run(config: EvalConfig, mesh: Mesh) -> Pretrained:
    _given(config).refuse(config.checkpoint)
    checkpoint = run_checkpoint.opened(
        storage.location(config.checkpoint), config.step, _WORDING, print_on_main
    )
    record, run = checkpoint.record, checkpoint.config
    identity = {"step": record.step, "crc32": record.to_json()["crc32"]}
    agreement.require({f"checkpoint {checkpoint.folder}": identity})
    lacking = [m for m in config.modalities if m not in run.modalities]
    if lacking and config.network != "log_mel":
        raise UserError(
            f"The run of {checkpoint.folder.parent} was trained with modalities"
            f" {','.join(run.modalities)} and has no network of {lacking[0]}:"
            f" {_remedy(config, list(run.modalities))}."
        )
    weights, heads = _networks_of(config, checkpoint, mesh)
    params: Tree = {}
    if config.network != "log_mel":
        kept = {m: weights[m].params for m in config.modalities}
        params = {"encoders": kept, "heads": {m: heads[m] for m in config.modalities}}
    return Pretrained(
        Origin(config.checkpoint, "a run", config.network, record.step),
        identity,
        Network({m: w.config for m, w in weights.items()}, run.model),
        params,
        run,
        run,
    )


def _networks_of(
    config: EvalConfig, checkpoint: run_checkpoint.RunCheckpoint, mesh: Mesh
) -> tuple[dict[Modality, EncoderWeights], Tree]:
    """Returns encoders and heads of a run's network; none for `log_mel`."""
    architecture = checkpoint.config.architecture
    if config.network == "log_mel":
        return {}, {}
    if config.network == "untrained":
        key = stream_key(checkpoint.config.seed, INITIALIZE)
        fresh = jax.jit(
            lambda: parameters(construct(Student, architecture, key)),
            out_shardings=parameter_shardings(Student, architecture, mesh),
        )
        tree = fresh()
    else:
        tree = checkpoint.tree(
            config.network, lambda cls, architecture: parameter_shardings(cls, architecture, mesh)
        )
    return run_checkpoint.encoders_of_run(tree, architecture), tree["heads"]


def _remedy(config: EvalConfig, held: list[Modality]) -> str:
    if config.protocol == "retrieval":
        return "give a run of both, or VIDEO,AUDIO weights, by --config.checkpoint"
    return f"give --config.modality={held[0]}, or other weights by --config.checkpoint"


def viewing(config: EvalConfig, inputs: LoaderConfig) -> LoaderConfig:
    """Returns the loader's config of an evaluation, with global views only.

    Data, batch, size and augmentation are the evaluation's; rates and lengths those of the
    encoders (`Pretrained.views`).

    Raises:
      UserError: data.dir is empty or not a data set, clips.size is not a multiple of the patch, or
        fit.augment.time_warp is too large.
    """
    directory = config.data.dir
    if not directory:
        raise UserError(
            "data.dir is empty: give --config.data.dir=SHARDS, made of the benchmark's files by"
            " python -m data_pipelines.build."
        )
    patch = inputs.video.patch[1]
    if config.clips.size % patch:
        raise UserError(f"clips.size is {config.clips.size}: give a multiple of {patch}, or 0.")
    columns = inputs.audio.columns
    if 2 * config.fit.augment.time_warp >= columns:
        raise UserError(
            f"fit.augment.time_warp is {config.fit.augment.time_warp}: give less than half of the"
            f" network's {columns} columns."
        )
    held = metadata.read(directory).short_side if metadata.is_described(directory) else 0
    views = {m: _plain(inputs.modality(m), getattr(config.clips, m)) for m in MODALITIES}
    views["video"] = dataclasses.replace(
        views["video"], size=config.clips.size or inputs.video.size
    )
    return LoaderConfig(
        seed=config.seed,
        batch_size=config.batch_size,
        modalities=inputs.modalities,
        **views,
        data=DataConfig(
            dir=directory,
            short_side=held or inputs.data.short_side,
            threads=config.data.threads,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            verify_checksums=config.data.verify_checksums,
        ),
    )


def _plain(view: Any, augment: Any) -> Any:
    """Returns the views of a modality without local views, and with another augmentation."""
    return dataclasses.replace(view, local_views=0, global_augment=augment)
