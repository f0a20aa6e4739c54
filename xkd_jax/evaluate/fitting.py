"""The training step of a classifier on an encoder, frozen or not, and its scores.

The trained parameters are one tree: `readout`, and with finetuning `network`, the encoder of the
modality. A frozen encoder's parameters are constants and not part of the state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.loader_config import LoaderConfig, Modality
from data_pipelines.read.read_ahead import Batch
from xkd_jax.augment import augment
from xkd_jax.augment.mixing import class_targets
from xkd_jax.config.evaluation import Protocol
from xkd_jax.config.fit_settings import FitConfig
from xkd_jax.evaluate.accumulation import accumulated
from xkd_jax.evaluate.encoding import crops_first
from xkd_jax.evaluate.network import Network
from xkd_jax.evaluate.readout import Readout
from xkd_jax.evaluate.training_clips import augment_for_fit
from xkd_jax.method.schedules import Schedule, constant, cosine
from xkd_jax.method.train_state import parameters
from xkd_jax.networks.blocks import DropPath
from xkd_jax.networks.precision import matmul_precision
from xkd_jax.networks.tree import Tree, is_stacked, path_names
from xkd_jax.parallel.mesh import on_mesh

_NEVER_DECAY = ("bias", "positions", "cls")


class FitState(struct.PyTreeNode):
    """State of a training.

    step: number of updates, int32 scalar.
    trained: the trained parameters, float32.
    optimizer: optax's state.
    """

    step: jax.Array
    trained: Tree
    optimizer: optax.OptState


@dataclasses.dataclass(frozen=True)
class Fit:
    """The jitted functions of one fold.

    Attributes:
      steps: number of steps of the whole training.
      initialize: () -> FitState.
      step: jitted (state, encoder's parameters, batch) -> (state, loss); the state is donated.
      predict: (trained, encoder's parameters, batch) -> (probabilities or scores (`fit.average`),
        float32 [batch, classes], averaged over crops; the batch's labels), replicated.
      like: shapes, dtypes and shardings of the state.
    """

    steps: int
    initialize: Callable[[], FitState]
    step: jax.stages.Wrapped
    predict: Callable[[Tree, Tree, Batch], tuple[jax.Array, jax.Array]]
    like: FitState


def create_fit(
    fit: FitConfig,
    network: Network,
    viewing: LoaderConfig,
    mesh: Mesh,
    encoder: Tree,
    *,
    protocol: Protocol,
    modality: Modality,
    records: int,
    classes: int,
) -> Fit:
    """Returns the jitted functions; each is compiled at its first call.

    Args:
      fit: settings of the training.
      network: the encoders as functions of parameters.
      viewing: the config of the views (`pretrained.viewing`), with seed and batch size.
      mesh: the mesh of devices.
      encoder: parameters of the encoder, frozen or the start of finetuning.
      protocol: one of `TRAINED`.
      modality: modality of the encoder.
      records: number of training records, an epoch.
      classes: number of classes.
    """
    steps = max(1, round(fit.epochs * records / viewing.batch_size))
    warmup = min(round(fit.warmup_epochs * records / viewing.batch_size), steps)
    rate = _learning_rate(fit, steps, warmup)
    transformation = _optimizer(fit, rate, network.encoders[modality].transformer.depth)
    classifier = _Classifier(fit, protocol, network, modality, viewing, classes)
    differentiate = accumulated(jax.value_and_grad(classifier.loss), fit.accumulation_steps)

    def initialize(encoder: Tree) -> FitState:
        trained = classifier.initial(encoder)
        return FitState(jnp.zeros((), jnp.int32), trained, transformation.init(trained))

    def step(state: FitState, encoder: Tree, batch: Batch) -> tuple[FitState, jax.Array]:
        key = jax.random.fold_in(jax.random.key(viewing.seed), state.step)
        loss, gradients = differentiate(state.trained, encoder, batch, key)
        updates, optimizer = transformation.update(gradients, state.optimizer, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        return FitState(state.step + 1, trained, optimizer), loss

    shapes = jax.eval_shape(initialize, encoder)
    placed_encoder = network.shardings(modality, mesh)
    placed = _shardings(shapes, transformation, placed_encoder, mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    start = jax.jit(initialize, out_shardings=placed)
    return Fit(
        steps=steps,
        initialize=lambda: start(encoder),
        step=jax.jit(on_mesh(step, mesh), out_shardings=(placed, whole), donate_argnums=0),
        predict=jax.jit(on_mesh(classifier.predict, mesh), out_shardings=whole),
        like=jax.tree.map(
            lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
            shapes,
            placed,
        ),
    )


class _Classifier:
    """Loss and scores of an encoder with its readout, as functions of parameters."""

    def __init__(
        self,
        fit: FitConfig,
        protocol: Protocol,
        network: Network,
        modality: Modality,
        viewing: LoaderConfig,
        classes: int,
    ):
        self._fit, self._protocol = fit, protocol
        self._network, self._modality = network, modality
        self._viewing, self._classes = viewing, classes
        self._graph, _ = nnx.split(nnx.eval_shape(self._fresh_readout))

    def _fresh_readout(self) -> Readout:
        with nnx.use_eager_sharding(False):
            return Readout(
                self._network.encoders[self._modality].transformer,
                self._classes,
                attentive=self._protocol == "attentive",
                rngs=nnx.Rngs(jax.random.key(self._viewing.seed)),
            )

    def initial(self, encoder: Tree) -> Tree:
        """Returns the trained parameters before the first step."""
        trained = {"readout": parameters(self._fresh_readout())}
        if self._protocol == "finetune":
            trained["network"] = encoder
        return trained

    def loss(self, trained: Tree, encoder: Tree, batch: Batch, key: jax.Array) -> jax.Array:
        """Mean cross entropy of softmax, or of sigmoids with several labels per record."""
        views_key, key = jax.random.split(key)
        several = "labels" in batch
        targets = (
            batch["labels"].astype(jnp.float32)
            if several
            else class_targets(batch["label"], self._classes, self._fit.label_smoothing)
        )
        views = augment(self._viewing, {self._modality: batch[self._modality]})
        view, targets = augment_for_fit(
            views[self._modality]["global"],
            targets,
            views_key,
            self._fit.augment,
            self._viewing.modality(self._modality),
        )
        scores = self._scores(trained, encoder, view, key)
        if several:
            return optax.sigmoid_binary_cross_entropy(scores, targets).mean()
        return optax.softmax_cross_entropy(scores, targets).mean()

    def predict(self, trained: Tree, encoder: Tree, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """See `Fit.predict`."""
        several = "labels" in batch
        squash = {
            "scores": lambda scores: scores,
            "probabilities": jax.nn.sigmoid if several else jax.nn.softmax,
        }[self._fit.average]

        def of_crop(crop: Batch) -> jax.Array:
            view = augment(self._viewing, {self._modality: crop})[self._modality]["global"]
            return squash(self._scores(trained, encoder, view, None))

        # sequentially, so that a test needs no more memory than a training step
        found = jax.lax.map(of_crop, crops_first(batch[self._modality]))
        return found.mean(0), batch["labels" if several else "label"]

    def _scores(
        self, trained: Tree, frozen: Tree, view: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        fit = self._fit
        encoder = self._network.encoder(self._modality, trained.get("network", frozen))
        readout = nnx.merge(self._graph, trained["readout"])
        drop_path = None
        if key is not None:
            path_key, key = jax.random.split(key)
            drop_path = DropPath(fit.drop_path, path_key) if fit.drop_path else None
        with matmul_precision(self._network.model):
            tokens = encoder(view, drop_path=drop_path)
            return readout(
                tokens[:, encoder.config.special_tokens :],
                encoder.pool(tokens),
                normalize=fit.normalize,
                dropout=fit.dropout,
                key=key,
            )


def _learning_rate(fit: FitConfig, steps: int, warmup: int) -> Schedule:
    if fit.schedule == "constant":
        return constant(fit.learning_rate)
    return cosine(fit.learning_rate, fit.final_learning_rate, steps, warmup=warmup)


def _optimizer(fit: FitConfig, learning_rate: Schedule, depth: int) -> optax.GradientTransformation:
    def scale(updates: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(
            lambda path, update: update * layer_scale(path, update.ndim, fit.layer_decay, depth),
            updates,
        )

    return optax.chain(
        optax.scale_by_adam(fit.b1, fit.b2, fit.eps),
        optax.add_decayed_weights(fit.weight_decay, mask=decays),
        optax.stateless(lambda updates, _: scale(updates)),
        optax.scale_by_learning_rate(learning_rate),
    )


def layer_scale(path: tuple[Any, ...], ndim: int, decay: float, depth: int) -> np.ndarray:
    """Returns the factor of a parameter's learning rate: decay^(blocks from it to the readout).

    Args:
      path: path of the parameter in the tree.
      ndim: its number of axes.
      decay: factor from one block to the next.
      depth: number of blocks; the embedding counts as one before the first.

    Returns:
      A float32 scalar, or [depth, 1, ...] for stacked blocks.
    """
    names = path_names(path)
    if is_stacked(path):
        powers = np.arange(depth, 0, -1).reshape(-1, *[1] * (ndim - 1))
    else:
        powers = np.array(depth + 1 if "embedding" in names else 0)
    return np.float32(decay) ** powers.astype(np.float32)


def decays(params: Tree) -> Tree:
    """Returns a tree of bools: True for parameters with weight decay.

    Parameters with one axis, positions and the CLS token have none.
    """

    def decays_one(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        return path_names(path)[-1] not in _NEVER_DECAY and leaf.ndim - is_stacked(path) > 1

    return jax.tree_util.tree_map_with_path(decays_one, params)


def _shardings(
    shapes: FitState,
    transformation: optax.GradientTransformation,
    encoder: Tree,
    mesh: Mesh,
) -> FitState:
    """Returns the state's shardings: the encoder's as in pretraining, the readout replicated."""
    whole = NamedSharding(mesh, PartitionSpec())
    trained = jax.tree.map(lambda _: whole, shapes.trained)
    if "network" in trained:
        trained["network"] = encoder
    optimizer = optax.tree_map_params(
        transformation,
        lambda _, at: at,
        shapes.optimizer,
        trained,
        transform_non_params=lambda _: whole,
    )
    parts: dict[str, Any] = {"step": whole, "trained": trained, "optimizer": optimizer}
    return FitState(**parts)
