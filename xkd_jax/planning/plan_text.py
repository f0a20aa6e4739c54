"""The text of a plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from data_pipelines.terminal import count
from xkd_jax.networks.attention import describe
from xkd_jax.networks.remat import chosen
from xkd_jax.planning.chips import GIB
from xkd_jax.planning.plan import LOADER_RATE, Plan
from xkd_jax.planning.roofline import axes_of

FITS = "fits: yes"  # begins the verdict of a plan that fits


def lines(plan: Plan) -> Iterator[str]:
    """Yields the lines of a plan, without its verdict."""
    where, mesh, model = plan.where, plan.mesh, plan.config.model
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    hosts = count(where.hosts, "host")
    yield f"devices   {where}, {count(where.chips, where.noun)}, {hosts}"
    yield (
        f"mesh      {axes}, optimizer {plan.config.mesh.optimizer}, batch {plan.config.batch_size},"
        f" remat {chosen(model.remat, mesh.devices.flat[0])}"
    )
    yield f"attention {describe(model, mesh.devices.flat[0])}"
    yield from _memory(plan)
    clip = plan.flops / plan.config.batch_size / 1e9
    if plan.costs is None or plan.step is None:
        yield f"flops     {plan.flops:.3g} a step, {clip:.0f} G a clip"
        if plan.unknown:
            yield (
                "unknown   no times: this version of XLA writes something that a plan can't read,"
                f" {plan.unknown}: take the versions of locks/"
            )
        return
    yield (
        f"flops     {plan.flops:.3g} a step, {clip:.0f} G a clip; with rematerialization"
        f" {plan.costs.flops:.3g} on each device"
    )
    yield from _network(plan)
    for function, times in sorted(plan.costs.unknown.items()):
        yield f"unknown   the operations of {function}, {count(times, 'call')} a step, count as 0"
    yield from _step(plan)
    yield (
        f"run       {count(plan.length.steps, 'step')} ({count(plan.config.data.records, 'clip')},"
        f" {plan.config.batch_size} a step): {plan.hours(plan.seconds):.1f} h,"
        f" {plan.hours(plan.seconds) * where.chips:.0f} {where.noun}-hours"
    )
    each = plan.clips_per_second(plan.step.seconds) / where.hosts
    yield (
        f"hosts     {each:.0f} clips/s on each of {where.hosts}: {each / LOADER_RATE:.1f} of"
        f" {where.host_cores} cores at {LOADER_RATE:.0f} clips/s a core"
    )


def _step(plan: Plan) -> Iterator[str]:
    """Yields the two scales, each with the rate that follows from it."""
    step, chip = plan.step, plan.where.chip
    assert step is not None
    assert plan.costs is not None
    yield (
        f"roofline  {1e3 * step.seconds:.1f} ms a step at least, bound by {step.bound}: matrix unit"
        f" {1e3 * step.compute:.1f} ms, memory {1e3 * step.memory:.1f} ms"
        f" ({plan.costs.bytes / 1e9:.1f} GB), network {1e3 * step.hidden:.1f} ms overlapped and"
        f" {1e3 * step.exposed:.1f} ms exposed{_rate(plan, step.seconds)}"
    )
    compiled = step.compiled
    if compiled is None:
        yield "cycles    none: the compiler writes no estimate for this platform"
        return
    assert chip.clock is not None
    yield (
        f"cycles    {1e3 * step.compiled_seconds:.1f} ms a step: operations by the compiler's"
        f" estimate {1e3 * compiled.operations:.1f} ms at {chip.clock / 1e9:g} GHz, kernels by"
        f" their instructions {1e3 * compiled.kernels:.1f} ms, all others by the roofline"
        f" {1e3 * compiled.rest:.1f} ms, network as above{_rate(plan, step.compiled_seconds)}"
    )


def _rate(plan: Plan, seconds: float) -> str:
    return (
        f"; {plan.clips_per_second(seconds):.0f} clips/s,"
        f" utilization {plan.utilization(seconds):.0%} of the peak"
    )


def verdict(plan: Plan) -> str:
    """Returns the line that states whether the plan fits, and its peak memory."""
    answer = FITS if plan.fits else "fits: no"
    return f"{answer}, peak {plan.memory.peak / GIB:.2f} of {plan.where.chip.hbm:.2f} GiB"


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
    peak = f"{memory.peak / GIB:.2f} of {plan.where.chip.hbm:.2f}"
    yield f"memory    GiB a device: {parts}; peak {peak}"


def _network(plan: Plan) -> Iterator[str]:
    assert plan.costs is not None
    totals: dict[tuple[str, str, bool], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for collective in plan.costs.collectives:
        axes = axes_of(collective.group, plan.mesh)
        total = totals[collective.kind, axes, collective.asynchronous]
        seconds = plan.where.collective_seconds(collective, plan.mesh)
        total[0] += collective.times
        total[1] += collective.received
        total[2] += collective.times * seconds
    for (kind, axes, hidden), (times, received, seconds) in sorted(totals.items()):
        yield (
            f"network   {kind:18} over {axes:15} {times:5.0f} a step, {received / 1e6:8.1f} MB a"
            f" device, {1e3 * seconds:6.2f} ms{', overlapped' if hidden else ''}"
        )
