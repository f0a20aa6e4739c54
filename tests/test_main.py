import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xkd_jax import __main__ as command
from xkd_jax.config import dataclass_schema
from xkd_jax.config.pretraining import Config

ROOT = Path(__file__).parents[1]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "arguments,sentence",
    [
        ((), "There is no --config"),
        (("--max_steps=5",), "There is no flag --max_steps. Did you mean --config.max_steps=5?"),
        (
            ("--config=configs/nope.py",),
            "configs/nope.py does not exist: the folder configs has audioset.py, ",
        ),
        (
            ("--config=configs/eval/uc101.py",),
            "finetune.py, fsd50k_linear.py, hmdb51.py, k400_line",
        ),
        (("--config=configs/eval/uc101.py",), "Did you mean configs/eval/ucf101.py?"),
        (("--config=nope/nope.py",), "nope/nope.py does not exist: the folder configs has "),
        (("--config=configs/k400.py:xdk",), "no variant 'xdk'"),
        (("--config=configs/eval/ucf101.py:xdk",), "has no variants, and 'xdk' is given: give"),
        (("--config=configs/k400.py", "--config.modle.size=base"), "Did you mean model.size?"),
        (("--config=configs/k400.py", "--config.batch_size=many"), "batch_size"),
        (("--config=configs/k400.py", "--config.model.variant=xdk"), "model.variant is 'xdk'"),
        (("--config=configs/k400.py",), "data.dir is empty"),
        (("--config=configs/k400.py", "--plan=v9:2x2"), "v9:2x2 names no known TPU"),
        (("--config=configs/eval/ucf101.py", "--config.data.fold=1"), "Did you mean data.folds?"),
        (("--config=configs/eval/ucf101.py",), "checkpoint is empty"),
        (
            ("--config=configs/eval/knn.py", "--config.data.folds=(1, 2, 3)"),
            "checkpoint is empty",  # so the folds are accepted
        ),
        (("--config=configs/eval/ucf101.py", "--plan=v5e:2x2"), "--plan is for pretraining"),
    ],
)
def test_bad_command_lines_end_in_one_sentence(arguments, sentence, tmp_path):
    found = run(*arguments, f"--workdir={tmp_path}")
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("error: ")
    assert sentence in found.stderr


def test_command_alone_and_with_help_prints_guide():
    alone, asked = run(), run("--help")
    assert (alone.returncode, asked.returncode) == (2, 0)
    assert alone.stdout == asked.stdout
    assert alone.stderr == asked.stderr == ""
    assert all(len(line) <= 100 for line in asked.stdout.splitlines())
    commands = [line for line in asked.stdout.splitlines() if "--config=configs/" in line]
    for path in re.findall(r"configs/[a-z0-9/_]+\.py", "\n".join(commands)):
        assert (ROOT / path).is_file()
    assert len(commands) >= 5


def test_guide_and_errors_of_flags_do_not_wait_for_libraries():
    """JAX takes seconds to import, and NumPy as long as all other imports of these commands."""
    code = "import sys, xkd_jax.__main__; assert not {'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_module_in_another_folder_equals_main_and_takes_configs_of_package(tmp_path):
    def start(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "xkd_jax", *arguments], cwd=tmp_path, capture_output=True,
            text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    module = "python -m xkd_jax"
    assert start("--help").stdout == run("--help").stdout.replace("python main.py", module)
    for name in ("configs/eval/knn.py:audio", "eval/knn:audio"):
        found = start(f"--config={name}", "--plan=v5e:2x2")
        assert found.stdout == f"config    {ROOT / 'configs/eval/knn.py'}\n"
        assert found.stderr.startswith("error: --plan is for pretraining")


def test_helpfull_lists_every_flag():
    found = run("--helpfull")
    assert found.returncode == 1  # the status of absl
    for flag in ("--workdir", "--plan", "--[no]show", "--[no]compilation_cache", "--verbosity"):
        assert flag in found.stdout


def test_show_prints_every_key_and_changes_of_command_line():
    found = run(
        "--config=configs/demo.py", "--show", "--config.batch_size=4", "--noconfig.probe.enabled"
    )
    assert found.returncode == 0, found.stderr
    lines = {line[2:].split(" = ")[0]: line for line in found.stdout.splitlines() if " = " in line}
    assert {*dataclass_schema.keys(Config)} <= {*lines}
    assert re.fullmatch(
        r"\* batch_size = 4  +clips per step.*  \[the file: 64; default: 256\]", lines["batch_size"]
    )
    assert re.fullmatch(r"  video\.frames = 8  +[^ ].*  \[default: 32\]", lines["video.frames"])
    assert lines["data.dir"].startswith("  data.dir = ''  ")
    changed = "batch_size 64 -> 4, probe.enabled True -> False"
    assert found.stdout.splitlines()[-1] == f"2 keys changed by the command line: {changed}"


def test_url_of_store_without_guarantees_is_refused_as_workdir():
    found = run("--config=configs/demo.py", "--workdir=ftp://host/run")
    assert found.returncode == 2
    assert "error: --workdir is ftp://host/run, in a store without" in found.stderr


@pytest.mark.parametrize(
    "config,workdir",
    [
        ("configs/demo.py", "runs/demo"),
        ("configs/demo.py:reconstruction", "runs/demo-reconstruction"),
    ],
)
def test_default_workdir_has_name_of_config(config, workdir):
    assert command.default_workdir(config) == workdir


# A run that has ended, in a process where a thread of a library or an exit handler hangs.
HANGS = """
import atexit, threading
from data_pipelines import errors
from xkd_jax import command_line
command_line.PATIENCE = 0.3
def main(config):
    threading.Thread(target=threading.Event().wait).start()
    atexit.register(threading.Event().wait)
    END
command_line.run(main)
"""


@pytest.mark.parametrize(
    "end,status",
    [
        ("pass", 0),
        ("raise errors.UserError('a reason')", 2),
        ("raise errors.StoppedError('as asked')", 75),
        ("1 / 0", 1),
    ],
)
def test_run_exits_soon_if_threads_hang(end, status):
    found = subprocess.run(
        [sys.executable, "-c", HANGS.replace("END", end), "--config=configs/demo.py"],
        cwd=ROOT, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == status
