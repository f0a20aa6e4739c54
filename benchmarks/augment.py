"""Times the augmentation on the device, and as a fraction of the training step.

    python -m benchmarks.augment --config=configs/k400.py --config.batch_size=4 [--step]

Prints one line of JSON. The clips are random pixels in 4:3 frames: no data set is needed, as the
time does not depend on the content. `difference_from_xla` is the largest of all values, in
deviations: TPUs augment video by a kernel of this project. They cut its patches by another one;
`patches_equal` compares them with XLA's. `step` seconds are those of the whole training step, which
includes the augmentation.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from data_pipelines import terminal
from data_pipelines.read import views
from xkd_jax import command_line
from xkd_jax.augment import augment
from xkd_jax.config.pretraining import Config
from xkd_jax.networks.patches import stored_patches
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.compiled_run import run_of

_RECORDS = 10_000  # of an assumed data set; determines only the lengths of the schedules


def random_batch(config: Config) -> Any:
    """Returns a host batch of training views of noise, with `config.batch_size` rows."""
    short = config.data.short_side
    rng = np.random.default_rng(0)
    shape = (config.video.frames, short, short * 4 // 3, 3)
    frames = rng.integers(0, 256, shape, np.uint8)
    log_mel = rng.integers(0, 40000, config.audio.global_shape).astype(np.uint16)

    def row(number: int) -> Any:
        return views.train_views(
            config, frames, log_mel, lambda name: random.Random(f"{number}/{name}")
        )

    return jax.tree.map(lambda *rows: np.stack(rows), *map(row, range(config.batch_size)))


def seconds(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Returns best and median seconds of calls after a first one, which compiles."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - start)
    return {"best": min(taken), "median": statistics.median(taken)}


def measure(config: Config, repeats: int, step: bool) -> dict[str, Any]:
    """Returns the result of the benchmark, ready for JSON."""
    mesh = mesh_lib.make_mesh(config.mesh)
    placed = mesh_lib.batch_sharding(mesh, config.batch_size)
    host = random_batch(config)
    batch = mesh_lib.put_batch(host, placed, config.batch_size)
    changed = jax.jit(lambda batch: augment(config, batch)).lower(batch).compile()
    by_xla = dataclasses.replace(config, video=dataclasses.replace(config.video, kernel="xla"))
    expected = jax.jit(lambda batch: augment(by_xla, batch))(batch)
    errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), changed(batch), expected)
    video, patch = expected["video"]["global"], config.video.patch
    patches, cut_by_xla = (
        jax.jit(functools.partial(stored_patches, patch=patch, kernel=kernel))(video)
        for kernel in (True, False)
    )
    taken = seconds(lambda: changed(batch), repeats)
    memory, clips = changed.memory_analysis(), config.batch_size
    result: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "batch": clips,
        "augment_seconds": taken,
        "difference_from_xla": max(jax.tree.leaves(errors)),
        "patches_equal": bool((patches == cut_by_xla).all()),
        "clips_per_second": clips / taken["best"],
        "host_bytes_per_clip": sum(leaf[0].nbytes for leaf in jax.tree.leaves(host)),
        "temporary_bytes_per_clip": memory and memory.temp_size_in_bytes * mesh.size / clips,
    }
    if step:
        run = run_of(config, config.length(_RECORDS), mesh)
        state = run.initialize()

        def once() -> Any:
            nonlocal state
            state, metrics = run.step(state, batch)
            return metrics

        result["step_seconds"] = seconds(once, repeats)
        result["fraction_of_step"] = taken["best"] / result["step_seconds"]["best"]
    return result


def main(config: Config) -> None:
    """Measures and prints."""
    terminal.print_text(json.dumps(measure(config, flags.FLAGS.repeats, flags.FLAGS.step)))


def run() -> None:
    """Defines the flags and runs `main`."""
    flags.DEFINE_integer("repeats", 5, "Timed calls.", lower_bound=1)
    flags.DEFINE_bool("step", False, "Time the training step too.")
    command_line.run(main)


if __name__ == "__main__":
    run()
