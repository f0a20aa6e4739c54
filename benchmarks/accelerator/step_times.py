"""Times the training step of the k400 config on one device, in several variants.

    python -m benchmarks.accelerator.step_times --wave=64:auto:global,64:xla:global [--wave=...]

A variant is CLIPS:ATTENTION:TEACHER_VIEW, then optional words: `views` uses normalized views on the
device in place of a batch of the loader, without augmentation, as in the authors' step; `timed`
lets XLA time several kernels for each matrix product (`xkd_jax.parallel.compiler`); `scan` is
`model.layers=scan`; `bfloat16` is that dtype, also on a CPU; `trace` also records two steps and
reports their kernels. The variants of a wave are compiled in parallel, then timed in turn. Data are
random and stay on the device.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import gzip
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.accelerator import device_rates, kernels, reporting
from benchmarks.augment import random_batch
from configs import k400
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from xkd_jax.augment import augment
from xkd_jax.config import pretraining
from xkd_jax.config.pretraining import Config
from xkd_jax.method.train_step import inputs_of, masked
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.planning.flops import count_flops
from xkd_jax.training.compiled_run import Run, run_of

_RECORDS = 240_000  # determines only the lengths of the schedules
_PATIENCE = 100  # seconds, after which the variants of a wave that are compiled are timed
# XLA's defaults for matrix products.
_TIMED: dict[str, str | bool] = {
    "xla_gpu_enable_triton_gemm": True, "xla_gpu_autotune_level": "4",
}  # fmt: skip
_WORDS = ("views", "timed", "trace", "scan", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Variant:
    """Settings of a step."""

    clips: int
    attention: str
    teacher_view: str
    words: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Reads CLIPS:ATTENTION:TEACHER_VIEW[:WORD ...].

        Raises:
          UserError: the text is malformed.
        """
        clips, *rest = text.split(":")
        if not clips.isdecimal() or len(rest) < 2 or not set(rest[2:]) <= set(_WORDS):
            raise UserError(
                f"{text!r} is no variant: give CLIPS:ATTENTION:TEACHER_VIEW, and words of"
                f" {', '.join(_WORDS)}."
            )
        return cls(int(clips), rest[0], rest[1], frozenset(rest[2:]))

    def config(self, tiny: bool) -> Config:
        """Returns the k400 config with the variant's settings, on one device."""
        raw = k400.get_config()
        raw.batch_size = self.clips
        raw.model.attention = self.attention
        raw.loss.teacher_view = self.teacher_view
        raw.model.layers = "scan" if "scan" in self.words else "auto"
        if "bfloat16" in self.words:
            raw.model.compute_dtype = "bfloat16"
        if tiny:
            raw.model.size = "48/1/3:24/1/3"
            raw.model.head.update(hidden=32, bottleneck=16, outputs=64)
        return pretraining.resolve(raw)

    def __str__(self) -> str:
        return ":".join([str(self.clips), self.attention, self.teacher_view, *sorted(self.words)])


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A variant's compiled step, its batch on the device, and the time of compilation."""

    variant: Variant
    config: Config
    run: Run
    step: jax.stages.Compiled
    batch: Any
    seconds: float


def compile_variant(variant: Variant, tiny: bool) -> Compiled:
    """Compiles the step of a variant."""
    config = variant.config(tiny)
    run, shapes = _run(variant, config), _batch_shapes(variant, config)
    since = time.perf_counter()
    lowered = run.step.lower(run.like, shapes)
    step = lowered.compile(compiler_options=_TIMED if "timed" in variant.words else None)
    return Compiled(variant, config, run, step, shapes, time.perf_counter() - since)


def flops_of_clip(teacher_view: str, tiny: bool) -> float:
    """Returns the operations per clip of the step's matrix products, including attention."""
    variant = Variant(8, "xla", teacher_view, frozenset({"views"}))
    config = variant.config(tiny)
    run = _run(variant, config)
    return count_flops(run.step, run.like, _batch_shapes(variant, config)) / variant.clips


def measure(
    compiled: Compiled, state: Any, *, peak_flops: float, flops: float, short: bool, keep: str
) -> Any:
    """Times a variant and reports it.

    Args:
      compiled: the variant.
      state: before its steps; donated.
      peak_flops: measured operations per second of the device.
      flops: of the step.
      short: whether to run few steps.
      keep: folder for the trace and the program of a traced variant; empty: they are not kept.

    Returns:
      The state after its steps, for the next variant.
    """
    batch = random_inputs(compiled)

    def step() -> None:
        nonlocal state
        state, metrics = compiled.step(state, batch)
        losses.append(metrics["loss"])

    losses: list[jax.Array] = []
    blocks, seconds = (2, 0.0) if short else (5, 1.0)
    times = reporting.block_times(
        step, lambda: jax.block_until_ready((state, losses)), blocks=blocks, seconds=seconds
    )
    taken, clips = statistics.median(times), compiled.variant.clips
    reporting.report(
        "step",
        variant=str(compiled.variant),
        clips=clips,
        attention=compiled.variant.attention,
        teacher_view=compiled.variant.teacher_view,
        augmented="views" not in compiled.variant.words,
        timed="timed" in compiled.variant.words,
        compile_seconds=round(compiled.seconds, 1),
        milliseconds=round(1e3 * taken, 2),
        milliseconds_of_blocks=[round(1e3 * t, 2) for t in times],
        clips_per_second=round(clips / taken, 1),
        share_of_matmul=round(flops / taken / peak_flops, 3),
        teraflop=round(flops / 1e12, 2),
        loss=float(losses[-1]),
        **_memory(compiled.step),
    )
    if "trace" in compiled.variant.words:
        reporting.attempt(
            "kernels", functools.partial(_trace, compiled, step, lambda: losses[-1], keep)
        )
    return state


def _trace(
    compiled: Compiled, step: Callable[[], None], last: Callable[[], jax.Array], keep: str
) -> None:
    steps = 2
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 1
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(steps):
                step()
            jax.block_until_ready(last())
        found = kernels.summarize(kernels.read(folder), steps)
        reporting.report("kernels", variant=str(compiled.variant), **found)
        if keep:
            name = str(compiled.variant).replace(":", "-")
            for path in Path(folder).rglob("*.xplane.pb"):
                shutil.copy(path, f"{keep}/{name}.xplane.pb")
            with gzip.open(f"{keep}/{name}.hlo.txt.gz", "wt", encoding="utf-8") as file:
                file.write(compiled.step.as_text() or "")


def _run(variant: Variant, config: Config) -> Run:
    make_inputs = masked if "views" in variant.words else inputs_of
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    return run_of(config, config.length(_RECORDS), mesh, make_inputs)


def _batch_shapes(variant: Variant, config: Config) -> Any:
    """Returns the shapes of the step's input: a batch of the loader, or views."""
    few = random_batch(dataclasses.replace(config, batch_size=1))
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((variant.clips, *a.shape[1:]), a.dtype), few
    )
    if "views" in variant.words:
        return jax.eval_shape(functools.partial(augment, config), shapes)
    return shapes


def random_inputs(compiled: Compiled) -> Any:
    """Returns random data with these shapes, on the device."""
    config = compiled.config
    if "views" not in compiled.variant.words:
        return jax.device_put(random_batch(config), jax.devices()[0])
    leaves, tree = jax.tree.flatten(compiled.batch)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    normal = [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, normal)


def _memory(step: jax.stages.Compiled) -> dict[str, float | None]:
    """Returns peak GiB by the compiler's plan, and measured on the device so far."""
    planned, seen = step.memory_analysis(), jax.devices()[0].memory_stats() or {}
    total = planned and (
        planned.argument_size_in_bytes
        + planned.output_size_in_bytes
        - planned.alias_size_in_bytes
        + planned.temp_size_in_bytes
    )
    peak = seen.get("peak_bytes_in_use")
    return {
        "planned_gib": total and round(total / 2**30, 2),
        "peak_gib_so_far": peak and round(peak / 2**30, 2),
    }


class Waves:
    """Compiles the variants of a wave in parallel, then times them with one state.

    Args:
      tiny: whether to use a tiny model and few steps.
      keep: see `measure`.
    """

    def __init__(self, *, tiny: bool, keep: str):
        self._tiny, self._keep = tiny, keep
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=8)
        self._flops: dict[str, concurrent.futures.Future[float]] = {}
        self._state: Any = None
        self._peak = 0.0

    def time(self, variants: list[Variant], wait_for_start: Callable[[], None]) -> None:
        """Times the variants of a wave, in their order."""
        submit = self._pool.submit
        compiling = {v: submit(compile_variant, v, self._tiny) for v in variants}
        if self._state is None:
            self._state = submit(_run(variants[0], variants[0].config(self._tiny)).initialize)
        for view in {v.teacher_view for v in variants} - self._flops.keys():
            self._flops[view] = submit(flops_of_clip, view, self._tiny)
        pending: list[concurrent.futures.Future[Any]] = [*compiling.values(), *self._flops.values()]
        concurrent.futures.wait(pending, timeout=_PATIENCE)
        wait_for_start()
        self._peak = self._peak or device_rates.report_rates(256 if self._tiny else 8192)
        for variant in sorted(variants, key=lambda v: not compiling[v].done()):
            try:
                self._time(compiling[variant].result())
            except Exception as error:  # continue with the other variants
                message = f"{type(error).__name__}: {error}"[:2000]
                reporting.report("step", variant=str(variant), error=message)
                self._state = None

    def _time(self, compiled: Compiled) -> None:
        if isinstance(self._state, concurrent.futures.Future):
            self._state = self._state.result()
        state = compiled.run.initialize() if self._state is None else self._state
        self._state = measure(
            compiled, state, peak_flops=self._peak, short=self._tiny, keep=self._keep,
            flops=compiled.variant.clips * self._flops[compiled.variant.teacher_view].result(),
        )  # fmt: skip


def main() -> None:
    """Compiles and times the waves."""
    parser = command_parser("benchmarks.accelerator.step_times", __doc__)
    parser.add_argument("--wave", action="append", required=True, help="variants, by commas")
    parser.add_argument("--keep", default="", help="folder for traces and traced programs")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model, on any device")
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    parsed = [[Variant.parse(text) for text in wave.split(",")] for wave in args.wave]
    waves = Waves(tiny=args.rehearse, keep=args.keep)
    for number, variants in enumerate(parsed):
        waits = args.wait and number == 0
        waves.time(variants, functools.partial(reporting.wait_for_start, waits))


if __name__ == "__main__":
    main()
