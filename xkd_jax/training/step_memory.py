"""The memory of a training step, estimated before its compilation.

If it does not fit, the message has flags with which it fits.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import jax
import jax.numpy as jnp

from data_pipelines.loader_config import LoaderConfig, Modality
from xkd_jax.config.architecture import Architecture, Remat
from xkd_jax.config.loss_settings import LossConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.method.objective import ModalityViews
from xkd_jax.method.state_shardings import parameter_shardings
from xkd_jax.method.train_state import TrainState
from xkd_jax.method.train_step import loss_function, masked
from xkd_jax.networks.remat import chosen
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.parallel.mesh import device_bytes
from xkd_jax.training import memory
from xkd_jax.training.memory import Room

# Memory of the compiled step / activations saved for its gradient, as measured on CPUs; the
# difference is temporaries.
_TEMPORARIES = 1.3
# A step is refused before its compilation only if its estimate exceeds the memory by this factor,
# as the compiler may find a schedule that needs less.
_MARGIN = 1.6
# Upper bound of the values per token, block and unit of width that are saved for the gradient.
_MAX_SAVED = 64
_REMATS: tuple[Remat, ...] = ("none", "products", "all")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimated bytes of a step on each device.

    state: parameters, optimizer's state and gradients, and gathered parameters.
    kept: activations of the whole batch that are saved for the gradient.
    """

    state: float
    kept: float

    def needed(self, fraction: float = 1.0) -> float:
        """Returns the bytes of a step on a fraction of the batch."""
        return self.state + _TEMPORARIES * self.kept * fraction


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Settings that determine the memory of a step, and its estimate.

    Attributes:
      architecture: architecture of the networks.
      loss: weights and settings of the losses.
      loader: batch size and views.
      mesh: how weights are divided.
      like: the state, as `jax.ShapeDtypeStruct` with shardings.
      devices: number of devices of the mesh, which divide the activations.
    """

    architecture: Architecture
    loss: LossConfig
    loader: LoaderConfig
    mesh: MeshConfig
    like: TrainState
    devices: int

    def estimate(self) -> Estimate:
        """Estimates the memory of a step from shapes, in about a second."""
        architecture = self.architecture

        def kept(state: TrainState) -> Any:
            views = {m: self._views(m) for m in architecture.modalities}
            inputs = masked(views, state.step, self.loader)
            temperatures = dict.fromkeys(views, jnp.float32(1))
            loss_of = loss_function(state, temperatures, inputs, architecture, self.loss)
            return jax.vjp(loss_of, state.student, has_aux=True)[1]

        leaves = jax.tree.leaves(jax.eval_shape(kept, self.like))
        size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
        return Estimate(device_bytes(self.like) + self._weights(), size / self.devices)

    def _weights(self) -> float:
        """Returns the bytes on each device of gradients, and of weights that a step gathers."""
        like = self.like
        if self.mesh.optimizer == "whole":
            return device_bytes(like.student)
        counter: Any = like.step.sharding
        student, teacher = (
            jax.tree.map(
                lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
                params,
                parameter_shardings(cls, self.architecture, counter.mesh),
            )
            for cls, params in ((Student, like.student), (Teacher, like.teacher))
        )
        return 2 * device_bytes(student) + device_bytes(teacher)

    def _views(self, modality: Modality) -> ModalityViews:
        view, batch = self.architecture.views[modality], self.loader.batch_size
        found = {"global": jnp.zeros((batch, *view.global_shape, *view.channels))}
        if view.local_views:
            shape = (view.local_views, batch, *view.local_shape, *view.channels)
            found["local"] = jnp.zeros(shape)
        return cast(ModalityViews, found)

    def may_be_large(self, there: Room) -> bool:
        """Whether a step may exceed the memory, by an upper bound that needs no tracing.

        Args:
          there: the memory of this process's devices.
        """
        views = [self.architecture.views[m] for m in self.architecture.modalities]
        tokens = sum(v.tokens + v.local_views * math.prod(v.local_grid) for v in views)
        encoder = self.architecture.model.encoder
        values = _MAX_SAVED * self.loader.batch_size * tokens * encoder.width * encoder.depth
        return 4.0 * values / self.devices > there.each / 2

    def check(self) -> None:
        """Checks the estimate of a step before its compilation.

        Raises:
          DevicesError: the step clearly does not fit; with flags that fit.
        """
        there = memory.room(jax.local_devices())
        if not self.may_be_large(there):
            return
        needed = self.estimate().needed()
        if needed > _MARGIN * there.each:
            memory.require(needed, there, lambda: self.flags_that_fit(there), "about ")

    def flags_that_fit(self, there: Room, needed: float | None = None) -> str:
        """Returns flags with which a step fits: smaller batch, remat, divided parameters.

        Alternatives are sorted by cost; each allows a larger batch than those before it.

        Args:
          there: the memory.
          needed: bytes of the compiled step on each device; None: not known.
        """
        known, whole = self.estimate(), self.loader.batch_size
        scale = 1.0 if needed is None else needed / known.needed()
        remat = chosen(self.architecture.model.remat, jax.local_devices()[0])
        options, best = [], 0
        for other in _REMATS[_REMATS.index(remat) :]:
            found = known if other == remat else self._with_remat(other).estimate()
            divided = dataclasses.replace(found, state=found.state / self.devices)
            again = f"--config.model.remat={other}" if other != remat else ""
            split = f"--config.mesh.fsdp={self.devices}"
            for of, flags in ((found, again), (divided, f"{again} {split}".strip())):
                if of is divided and (self.devices == 1 or self.mesh.fsdp != 1):
                    continue
                batch = largest_batch(whole, there, of, scale)
                if batch > best:
                    smaller = f"--config.batch_size={batch} " if batch < whole else ""
                    options.append(f"{smaller}{flags}".strip())
                    best = batch
        return ", or ".join(options) or "a smaller --config.model.size"

    def _with_remat(self, remat: Remat) -> StepMemory:
        model = dataclasses.replace(self.architecture.model, remat=remat)
        architecture = dataclasses.replace(self.architecture, model=model)
        return dataclasses.replace(self, architecture=architecture)


def largest_batch(batch_size: int, there: Room, of: Estimate, scale: float = 1.0) -> int:
    """Returns the largest of batch, batch / 2, batch / 4, ... that fits, or 0.

    Args:
      batch_size: batch of the estimate.
      there: the memory.
      of: estimate of a step on the whole batch.
      scale: factor of the estimate.
    """
    batch = batch_size
    while batch and scale * of.needed(batch / batch_size) > there.each:
        batch //= 2
    return batch
