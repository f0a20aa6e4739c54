"""The one entry point.

python main.py --config=configs/NAME.py[:VARIANT] [--config.a.b=x ...] [--workdir=RUN]
"""

import os
import sys
from pathlib import Path

# The person at the terminal reads our lines, not the runtime's notes to its developers.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging
from ml_collections import config_flags

from xkd_jax import config as xkd_config
from xkd_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="The experiment: configs/NAME.py or configs/NAME.py:VARIANT."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "The run's folder; runs/NAME-VARIANT unless given. A run there goes on."
)


def main(argv: list[str]) -> None:
    """Resolves the config and runs it."""
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is no flag: every argument starts with --.")
    config = xkd_config.resolve(_CONFIG.value)
    import jax

    from xkd_jax import sharding, train  # slow to import: only for a config that is right

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", sharding.cpu_devices(config, cores or 1))
    train.train(config, Path(_WORKDIR.value or default_workdir(_config_path(sys.argv))))


def default_workdir(config_path: str) -> str:
    """runs/NAME, or runs/NAME-VARIANT."""
    path, _, variant = config_path.partition(":")
    return str(Path("runs") / "-".join(filter(None, (Path(path).stem, variant))))


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags, with one sentence for what absl and ml_collections raise.

    Raises:
      UserError: a flag or a key of the config does not exist or has the wrong type.
    """
    path = _config_path(argv).partition(":")[0]
    if not path and not any("help" in argument for argument in argv):
        raise UserError("There is no --config: give --config=configs/demo.py, for example.")
    if path and not Path(path).is_file():
        raise UserError(f"The config file {path} does not exist: see the folder configs.")
    try:
        return flags.FLAGS(argv)
    except (KeyError, AttributeError) as error:
        raise UserError(_explain_key(argv, error)) from None
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"{error}".rstrip(".") + ": see python main.py --help.") from None


def _config_path(argv: list[str]) -> str:
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        name, _, given = flag.partition("=")
        if name in ("--config", "-config"):
            return given or value
    return ""


def _explain_key(argv: list[str], error: Exception) -> str:
    known = set(xkd_config.keys())
    for argument in argv[1:]:
        key = argument.lstrip("-").partition("=")[0]
        if key.startswith("config.") and (key := key.removeprefix("config.")) not in known:
            near = xkd_config.nearest_key(key)
            return f"The config has no key {key}." + (f" Did you mean {near}?" if near else "")
    return str(error)


def run() -> None:
    """Runs the command line."""
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
