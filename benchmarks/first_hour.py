"""From a folder of your own videos to a first number, with the time of each part.

    python -m benchmarks.first_hour --source=VIDEOS

VIDEOS has one sub-folder for each class. The commands are those of the README, and are printed:
shards with held-out test files, a preview of the views, a small network pretrained for some steps,
nearest neighbors on the test files, and the report. The network and its views are small enough for
a laptop, so the number shows that everything works, and not what the method reaches. Further
arguments are passed to the pretraining: --config.batch_size=8, for example.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.progress import duration

ROOT = Path(__file__).parents[1]
SHORT_SIDE = 48
# One second of 32 x 32 pixels, and its spectrogram.
SETTINGS = (
    "--config=configs/k400.py", "--config.model.size=64/2/4:32/1/4",
    "--config.model.head.outputs=128", "--config.model.head.hidden=64",
    "--config.model.head.bottleneck=32",
    "--config.video.frames=8", "--config.video.size=32", "--config.video.patch=(4, 8, 8)",
    "--config.video.local_frames=4", "--config.video.local_size=16", "--config.audio.columns=112",
    "--config.audio.local_columns=48", f"--config.data.short_side={SHORT_SIDE}",
    "--config.batch_size=16", "--config.epochs=0.0", "--config.optimizer.warmup_epochs=2.0",
    "--config.optimizer.learning_rate=1e-3",
)  # fmt: skip


def parts(
    source: str, output: Path, steps: int, others: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Returns {part: arguments of its Python command}, in order.

    Args:
      source: folder of the videos.
      output: folder for everything that is written.
      steps: of the pretraining.
      others: further arguments of the pretraining and the preview.
    """
    shards, run = f"{output}/shards", f"{output}/run"
    settings = [*SETTINGS, f"--config.data.dir={shards}", f"--config.max_steps={steps}", *others]
    return {
        "shards": [
            "-m", "data_pipelines.build", "--dataset=folder", f"--source={source}",
            f"--output={shards}", f"--short_side={SHORT_SIDE}", "--hold_out=0.2",
        ],
        "preview": [
            "-m", "data_pipelines.preview", *settings, "--records=2",
            f"--output={output}/preview.png",
        ],
        "pretraining": ["main.py", *settings, f"--workdir={run}"],
        "nearest neighbors": [
            "main.py", "--config=configs/eval/own.py:knn", f"--config.checkpoint={run}",
            f"--config.data.dir={shards}", f"--workdir={output}/knn",
        ],
        "report": ["-m", "xkd_jax.report", f"{output}/knn"],
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: that of the first part that fails.

    Args:
      argv: arguments of the command line; None: those of the process.
    """
    parser = command_parser("benchmarks.first_hour", __doc__)
    parser.add_argument("--source", required=True, help="folder of the videos")
    parser.add_argument("--output", default="runs/first_hour", help="folder for what is written")
    parser.add_argument("--steps", type=int, default=200, help="of the pretraining")
    args, others = parser.parse_known_args(argv)
    source, output = Path(args.source).absolute(), Path(args.output).absolute()
    times: dict[str, float] = {}
    for part, command in parts(str(source), output, args.steps, others).items():
        terminal.print_text(f"\n{part}: python {shlex.join(command)}")
        start = time.perf_counter()
        status = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
        if status:
            message = f"error: {part} ended with status {status}: see its message above."
            terminal.print_error(message)
            return status
        times[part] = time.perf_counter() - start
    times["total"] = sum(times.values())
    terminal.print_text("")
    for part, seconds in times.items():
        terminal.print_text(f"{part:18} {duration(seconds)}")
    return 0


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
