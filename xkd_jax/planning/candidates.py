"""Candidates of mesh, rematerialization and batch: which of them fit, or are fastest."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator

from data_pipelines.errors import UserError
from xkd_jax.config.architecture import Remat
from xkd_jax.config.pretraining import Config, MeshConfig, Split
from xkd_jax.networks.remat import chosen
from xkd_jax.planning.chips import GIB
from xkd_jax.planning.plan import Plan, make_plan
from xkd_jax.planning.targets import Target

Planner = Callable[[Config, Target], Plan]
REMATS: tuple[Remat, ...] = typing.get_args(Remat)


def with_mesh(config: Config, fsdp: int, tensor: int, optimizer: Split | None = None) -> Config:
    """The config with another mesh; `mesh.data` is -1, the remaining devices.

    Args:
      config: a config.
      fsdp, tensor: sizes of these axes.
      optimizer: `mesh.optimizer`; None: the config's.
    """
    mesh = MeshConfig(-1, fsdp, tensor, optimizer or config.mesh.optimizer)
    return dataclasses.replace(config, mesh=mesh)


def with_remat(config: Config, remat: Remat) -> Config:
    """The config with other rematerialization."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))


def flags(config: Config) -> str:
    """The command-line flags of mesh, rematerialization and batch."""
    mesh = config.mesh
    return (
        f"--config.mesh.data={mesh.data} --config.mesh.fsdp={mesh.fsdp}"
        f" --config.mesh.tensor={mesh.tensor} --config.mesh.optimizer={mesh.optimizer}"
        f" --config.model.remat={config.model.remat} --config.batch_size={config.batch_size}"
    )


def what_would_fit(plan: Plan, planner: Planner = make_plan) -> Iterator[str]:
    """Yields a line for each change that was tried, until one fits.

    The order is: more rematerialization, parameters split over more devices, a smaller batch (which
    changes the training).

    Args:
      plan: a plan that does not fit.
      planner: makes the plan of a config.
    """
    config, where = plan.config, plan.where
    config = with_mesh(config, plan.mesh.shape["fsdp"], plan.mesh.shape["tensor"])
    now = REMATS.index(chosen(config.model.remat, plan.mesh.devices.flat[0]))
    for remat in REMATS[now + 1 :]:
        config = with_remat(config, remat)
        yield (text := _attempt(config, where, planner))
        if text.startswith("would fit"):
            return
    largest = _largest_fsdp(where, config.mesh.tensor)
    if config.mesh.fsdp != largest:
        config = with_mesh(config, largest, config.mesh.tensor)
        yield (text := _attempt(config, where, planner))
        if text.startswith("would fit"):
            return
    while config.batch_size % 2 == 0 and _splits(config.batch_size // 2, config, where):
        config = dataclasses.replace(config, batch_size=config.batch_size // 2)
        yield (text := _attempt(config, where, planner))
        if text.startswith("would fit"):
            return
    yield "nothing   fits these devices: take more or larger ones, or a smaller model.size"


def _attempt(config: Config, where: Target, planner: Planner) -> str:
    plan = planner(config, where)
    answer = "would fit" if plan.fits else "too large"
    return f"{answer} {flags(config)}: peak {plan.memory.peak / GIB:.2f} GiB"


def _splits(batch_size: int, config: Config, where: Target) -> bool:
    return batch_size % (where.chips // config.mesh.tensor) == 0


def search(config: Config, where: Target, planner: Planner = make_plan) -> Iterator[Plan | str]:
    """Tries meshes, then rematerialization with the best mesh, then batches.

    The best plan is the one that fits and has most clips per second.

    Yields:
      Each plan, and a line for each config that the devices or the compiler refuse.
    """
    best: Plan | None = None
    seen: set[Config] = set()

    def better(candidates: Iterator[Config]) -> Iterator[Plan | str]:
        nonlocal best
        for candidate in candidates:
            if candidate in seen:
                continue
            seen.add(candidate)
            try:
                plan = planner(candidate, where)
            except UserError as error:
                yield f"skipped   {flags(candidate)}: {error}"
                continue
            yield plan
            if plan.fits and (best is None or rate(plan) > rate(best)):
                best = plan

    start = config
    for axis in (meshes, remats, batches):
        yield from better(axis(start, where))
        start = best.config if best else with_remat(start, "all")


def meshes(config: Config, where: Target) -> Iterator[Config]:
    """Yields configs with fsdp over one device or a group of them, and tensor 1 or 2.

    If fsdp does not divide the weights, `mesh.optimizer` may.
    """
    heads = min(config.model.encoder.heads, config.model.decoder.heads)
    for tensor in (n for n in (1, 2) if heads % n == 0 and where.chips % n == 0):
        for fsdp in sorted(
            {1, *(min(group, _largest_fsdp(where, tensor)) for group in where.groups)}
        ):
            splits: tuple[Split, ...] = ("whole", "split") if fsdp == 1 else ("whole",)
            for optimizer in splits:
                candidate = with_mesh(config, fsdp, tensor, optimizer)
                if _splits(config.batch_size, candidate, where):
                    yield candidate


def _largest_fsdp(where: Target, tensor: int) -> int:
    return max(1, max(where.groups) // tensor)


def remats(config: Config, where: Target) -> Iterator[Config]:
    """Yields configs with each value of `model.remat`."""
    del where
    return (with_remat(config, remat) for remat in REMATS)


def batches(config: Config, where: Target) -> Iterator[Config]:
    """Yields configs with half and twice the batch, if they can be split over the devices."""
    for batch_size in (config.batch_size // 2, 2 * config.batch_size):
        if batch_size and _splits(batch_size, config, where):
            yield dataclasses.replace(config, batch_size=batch_size)


def rate(plan: Plan) -> float:
    """Returns clips per second by the compiler's cycles, or by the roofline where it has none."""
    return plan.clips_per_second(plan.seconds) if plan.step else 0.0


def ranked(plans: list[Plan]) -> Iterator[str]:
    """Yields the lines of a table of plans by `rate`, those that fit first."""
    yield f"{'rank':>4} {'clips/s':>9} {'step ms':>8} {'roofline':>8} {'peak GiB':>9}  flags"
    order = sorted(plans, key=lambda p: (p.fits, rate(p)), reverse=True)
    for rank, plan in enumerate(order, 1):
        place = str(rank) if plan.fits else "-"
        numbers = f"{'-':>9} {'-':>8} {'-':>8}"
        if plan.step:
            numbers = f"{rate(plan):9.0f} {1e3 * plan.seconds:8.1f} {1e3 * plan.step.seconds:8.1f}"
        yield f"{place:>4} {numbers} {plan.memory.peak / GIB:9.2f}  {flags(plan.config)}"
