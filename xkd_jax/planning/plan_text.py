"""The text of a plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from data_pipelines.terminal import count
from xkd_jax.planning.plan import LOADER_RATE, Plan
from xkd_jax.planning.roofline import axes_of, collective_seconds
from xkd_jax.planning.slices import GIB

FITS = "fits: yes"  # begins the verdict of a plan that fits


def lines(plan: Plan) -> Iterator[str]:
    """Yields the lines of a plan, without its verdict."""
    where, mesh = plan.where, plan.mesh
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    yield f"slice     {where}, {count(where.chips, 'chip')}, {count(where.hosts, 'host')}"
    yield f"mesh      {axes}, batch {plan.config.batch_size}, remat {plan.config.model.remat}"
    yield from _memory(plan)
    clip = plan.flops / plan.config.batch_size / 1e9
    if plan.costs is None or plan.step is None:
        yield f"flops     {plan.flops:.3g} a step, {clip:.0f} G a clip"
        return
    yield (
        f"flops     {plan.flops:.3g} a step, {clip:.0f} G a clip; with rematerialization"
        f" {plan.costs.flops:.3g} on each device"
    )
    yield from _network(plan)
    step = plan.step
    yield (
        f"step      {1e3 * step.seconds:.1f} ms at least, bound by {step.bound}: matrix unit"
        f" {1e3 * step.compute:.1f} ms, memory {1e3 * step.memory:.1f} ms"
        f" ({plan.costs.bytes / 1e9:.0f} GB), network {1e3 * step.hidden:.1f} ms overlapped and"
        f" {1e3 * step.exposed:.1f} ms exposed"
    )
    yield (
        f"rate      {plan.clips_per_second:.0f} clips/s at most,"
        f" utilization {plan.utilization:.0%} of the peak"
    )
    yield (
        f"run       {count(plan.length.steps, 'step')} ({count(plan.config.data.records, 'clip')},"
        f" {plan.config.batch_size} a step): {plan.hours:.1f} h,"
        f" {plan.hours * where.chips:.0f} chip-hours"
    )
    each = plan.clips_per_second / where.hosts
    yield (
        f"hosts     {each:.0f} clips/s on each of {where.hosts}: {each / LOADER_RATE:.1f} of"
        f" {where.chip.host_cores} cores at {LOADER_RATE:.0f} clips/s a core"
    )


def verdict(plan: Plan) -> str:
    """Returns the line that states whether the plan fits, and its peak memory."""
    answer = FITS if plan.fits else "fits: no"
    return f"{answer}, peak {plan.memory.peak / GIB:.2f} of {plan.where.chip.hbm} GiB"


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    parts = ", ".join(
        f"{name} {getattr(memory, field) / GIB:.2f}"
        for name, field in (
            ("students", "students"),
            ("teachers", "teachers"),
            ("optimizer", "optimizer"),
            ("batch", "batch"),
            ("activations", "activations"),
            ("program", "program"),
        )
    )
    yield f"memory    GiB a device: {parts}; peak {memory.peak / GIB:.2f} of {plan.where.chip.hbm}"


def _network(plan: Plan) -> Iterator[str]:
    assert plan.costs is not None
    totals: dict[tuple[str, str, bool], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for collective in plan.costs.collectives:
        axes = axes_of(collective.group, plan.mesh)
        total = totals[collective.kind, axes, collective.asynchronous]
        seconds = collective_seconds(collective, plan.where, plan.mesh)
        total[0] += collective.times
        total[1] += collective.received
        total[2] += collective.times * seconds
    for (kind, axes, hidden), (times, received, seconds) in sorted(totals.items()):
        yield (
            f"network   {kind:18} over {axes:15} {times:5.0f} a step, {received / 1e6:8.1f} MB a"
            f" device, {1e3 * seconds:6.2f} ms{', overlapped' if hidden else ''}"
        )
