"""Pretrain XKD, evaluate a checkpoint, or plan a run.

usage: python main.py --config=FILE[:VARIANT] [--config.KEY=VALUE ...] [--workdir=RUN]

  try it (5 minutes)   python main.py --config=configs/demo.py
  train on videos      python main.py --config=configs/k400.py --config.data.videos=VIDEOS \\
                           --workdir=RUN
  make shards          python -m data_pipelines.build --dataset=folder --source=VIDEOS \\
                           --output=SHARDS
  pretrain on them     python main.py --config=configs/k400.py --config.data.dir=SHARDS \\
                           --workdir=RUN
  resume               the same command again
  watch the losses     tensorboard --logdir=RUN
  see all settings     python main.py --config=configs/k400.py --show
  change settings      --config.batch_size=64 --config.model.size=small
  use less memory      --config.batch_size=32 --config.model.remat=all --config.mesh.fsdp=4
  evaluate             python main.py --config=configs/eval/knn.py --config.checkpoint=RUN \\
                           --config.data.dir=SHARDS --workdir=runs/knn
  compare results      python -m xkd_jax.report runs
  plan a large run     python main.py --config=configs/k400.py --plan=v5e:16x16

FILE is one of configs/*.py and configs/eval/*.py; each begins with its command and its expected
result. They are installed with the package, and used where the working directory has no such file.
RUN is a folder for checkpoints and results, runs/NAME-VARIANT unless given. Without tensorboard:
pip install tensorboard. --helpfull lists every flag. Pages: README.md and docs/.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path, PurePath

# Hides log lines of the runtime.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from data_pipelines import terminal
from data_pipelines.activity import Activity
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax import command_line
from xkd_jax.config import value_checks
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.config.pretraining import Config

_BEGAN = time.monotonic()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    "",
    "Folder of the run, by default runs/NAME-VARIANT; an existing run in it is resumed.",
)
_PLAN = flags.DEFINE_string(
    "plan",
    "",
    "Print the plan of the run on a TPU slice (v5e:16x16, for example; v4, v5e, v5p, v6e) or on"
    " GPUs (h100:8, or h100:4x8 for four hosts; a100, h100, h200), without them."
    " search:v5e:16x16 tries meshes, rematerialization and batches.",
)
_WATCH = flags.DEFINE_float(
    "watch",
    None,
    "Evaluate each new checkpoint of a run that is still training, and look for one every so many"
    " seconds, until the run has ended.",
    lower_bound=0.1,
)
_CACHE = flags.DEFINE_boolean(
    "compilation_cache",
    True,
    "Keep compiled programs in ~/.cache/xkd_jax, at most 4 GiB, so that later starts are faster.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, for several processes that JAX does not detect."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "Processes, with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Index of this process, with --coordinator.")


def main() -> None:
    """Runs the command, and ends the process with its exit status."""
    assert __doc__ is not None
    guide = __doc__.replace("python main.py", terminal.main_command())
    command_line.run(pretrain, evaluate, guide=guide)


def pretrain(config: Config) -> None:
    """Pretrains, or plans a pretraining. JAX is imported here, because its import takes seconds.

    Raises:
      UserError: a flag of evaluations is given.
    """
    if _WATCH.value is not None:
        raise UserError(
            "--watch is for evaluations: leave it out, or give a config of configs/eval."
        )
    if _PLAN.value:
        plan(config, _PLAN.value)
        return
    with Activity("starting JAX"):
        start(config)
    from xkd_jax.inference import starting_weights
    from xkd_jax.training import train

    written, initial = (
        command_line.written_config(Config),
        starting_weights.reader(config.init, config.architecture),
    )
    trained = train.train(config, workdir(), written, initial, _BEGAN)
    if config.report:
        from xkd_jax.report import page_file

        page_file.write_at_end(workdir(), replace=trained)


def plan(config: Config, target: str) -> None:
    """Prints the plan of a run, which is compiled for its devices and not executed."""
    import jax

    from xkd_jax.planning import command

    jax.config.update("jax_platforms", "cpu")
    command.plan(config, target, [flag for flag in sys.argv[1:] if not flag.startswith("--plan")])


def evaluate(config: EvalConfig) -> None:
    """Runs an evaluation, or with `--watch` one for each new checkpoint.

    Raises:
      UserError: a flag of pretraining is given.
    """
    if _PLAN.value:
        raise UserError("--plan is for pretraining: leave it out, or give a pretraining config.")
    with Activity("starting JAX"):
        start(config)
    from xkd_jax.evaluate import evaluation, watch

    written = command_line.written_config(EvalConfig)
    if _WATCH.value is None:
        evaluation.evaluate(config, workdir(), written)
        return
    watch.watch(
        config,
        workdir(),
        _WATCH.value,
        lambda one, folder: evaluation.evaluate(one, folder, written),
    )


def start(config: Config | EvalConfig) -> None:
    """Connects the processes of a run; a single one creates the CPU devices that the mesh needs.

    Raises:
      UserError: config, program or libraries of the processes differ.
      UnreachableError: the other processes can't be reached.
    """
    import jax

    from xkd_jax import compilation_cache
    from xkd_jax.parallel import agreement, processes
    from xkd_jax.parallel import mesh as mesh_lib
    from xkd_jax.training.checkpoints.versions import versions

    processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if jax.distributed.is_initialized():
        kind = getattr(config, "protocol", "pretraining")
        with processes.lost_peer_errors():
            agreement.require(
                {"protocol": kind, "config": dataclasses.asdict(config), "version": versions()}
            )
    elif "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", mesh_lib.fewest_devices(config.mesh))
    if _CACHE.value:
        compilation_cache.enable(processes.print_on_main)


def workdir() -> PurePath:
    """Returns the run's folder or URL."""
    folder = _WORKDIR.value or default_workdir(command_line.config_path(sys.argv))
    value_checks.checkpoints_folder("--workdir", folder)
    return storage.location(folder)


def default_workdir(config_path: str) -> str:
    """Returns runs/NAME or runs/NAME-VARIANT."""
    path, _, variant = config_path.partition(":")
    return str(Path("runs") / "-".join(filter(None, (Path(path).stem, variant))))


if __name__ == "__main__":
    main()
