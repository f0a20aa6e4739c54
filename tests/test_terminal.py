"""Output of commands, with any name on any terminal."""

import io
import os
import pathlib
import subprocess
import sys

import fake_terminal
import pytest

from data_pipelines import terminal
from data_pipelines.build.build_report import BuildReport, LeftOut, summary
from xkd_jax.evaluate import data_set

ROOT = pathlib.Path(__file__).parents[1]
# A name and how it is printed.
NAMES = [
    ("plain.mp4", "plain.mp4"),
    ("été 東京 🎥.mp4", "été 東京 🎥.mp4"),
    ("a\x1b[2J\x1b]0;title\x07.mp4", r"a\x1b[2J\x1b]0;title\x07.mp4"),  # clears the screen
    ("a\rb\nc\td.mp4", r"a\rb\nc\td.mp4"),
    ("a\x9b31m\x85.mp4", r"a\x9b31m\x85.mp4"),  # control characters above 127
    ("gpj\u202e4pm", r"gpj\u202e4pm"),  # reads from right to left
    ("a\u2066\u200f\u200b\ufeff", r"a\u2066\u200f\u200b\ufeff"),
    ("a\u2028b\u2029", r"a\u2028b\u2029"),  # ends a line in some terminals
    ("caf\udce9.mp4", r"caf\udce9.mp4"),  # a name that is not UTF-8
    ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
]


@pytest.mark.parametrize("name, printed", NAMES)
def test_control_characters_of_names_are_escaped(name, printed):
    assert terminal.escaped(name) == printed


@pytest.mark.parametrize("name", [name for name, _ in NAMES])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "shift_jis"])
def test_names_are_printable_in_every_encoding(name, encoding):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", newline="\n")
    terminal.print_text(f"first\n{name}", out)
    message = out.buffer.getvalue().decode(encoding)
    assert message.startswith("first\n")
    assert message.isascii() or encoding != "ascii"
    assert not set(message) & set("\x1b\x07\r\t\x9b\x85\u202e\u2066\u2028")


def test_line_feeds_are_kept():
    out = io.StringIO()
    terminal.print_text("one\ntwo", out)
    assert out.getvalue() == "one\ntwo\n"


def test_error_is_one_line(capsys):
    terminal.print_error("a\nb \x1b[31mis not a folder")
    assert capsys.readouterr().err == r"a\nb \x1b[31mis not a folder" + "\n"


def test_names_cannot_forge_summary_of_build():
    name = "x.mp4\n\x1b[1Ano file left out of 2"
    entries = [LeftOut("train", name, "failed", "bad\x1b[0m")]
    options = {"media": {"video": True, "audio": True}}
    text = summary(BuildReport("toy", "", options, {"train": 1}, 2, entries), "out\x1b[2J")
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text


# Each command, with a name that has an accent and an escape sequence.
COMMANDS = [
    (["-m", "data_pipelines.build", "--dataset=folder", "--source={}", "--output=o"], "stderr"),
    (["-m", "xkd_jax.report", "{}"], "stderr"),
    (["-m", "xkd_jax.parity", "{}"], "stderr"),
    (["main.py", "--config={}"], "stderr"),
    (["-m", "data_pipelines.preview", "--config={}"], "stderr"),
]


@pytest.mark.parametrize("command, stream", COMMANDS, ids=lambda value: value[1])
def test_every_command_escapes_names(tmp_path, command, stream):
    name = f"{tmp_path}/é\x1b[31m\u202e"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *(part.format(name) for part in command)],
        env=environment, cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    message = getattr(done, stream).decode("ascii")
    assert done.returncode == 2
    assert r"\xe9\x1b[31m\u202e" in message
    assert "\x1b" not in message
    assert "Traceback" not in message
    assert message.count("\n") == 1
    assert message.startswith("error: ") or "data_pipelines" in command[1]


@pytest.mark.parametrize(
    "number,noun,text",
    [
        (0, "record", "0 records"), (1, "record", "1 record"), (1200, "record", "1,200 records"),
        (1, "class", "1 class"), (2, "class", "2 classes"), (3, "process", "3 processes"),
    ],
)  # fmt: skip
def test_count_of_one_is_singular(number, noun, text):
    assert terminal.count(number, noun) == text


def test_next_command_is_printed_only_on_terminal(monkeypatch, capsys):
    terminal.print_next("a command")
    assert capsys.readouterr().out == ""
    out = fake_terminal.use(monkeypatch)
    terminal.print_next("a command")
    assert out.screen() == ["next      a command"]


def test_tables_of_results_escape_them():
    row = terminal.table_row(["a\nb", "\x1b[31m", "a|b"])
    assert row == r"| a\nb | \x1b[31m | a\|b |"


def test_left_out_summary_is_one_line():
    left_out = {"bad\nresult 100 %\x1b[1A": 3}
    message = data_set.DataSummary("toy", 2, [], {}, {}, [], [], left_out).describe()
    assert message.count("\n") == 1
    assert r"3 bad\nresult 100 %\x1b[1A" in message


# Unwritable streams: `>/dev/full`, `| true` and `>&-` of a shell.
STREAMS = ["full", "closed pipe", "closed"]
RUN = """
import sys
from data_pipelines import terminal
with terminal.guarded_output():
    for step in range(3000):  # more than buffers hold
        terminal.print_text(f"step {step}")
    terminal.print_error("a warning")
    END
"""
PRODUCT = """
from data_pipelines import terminal
with terminal.guarded_output():
    {text}
"""


def _start(arguments, stdout, stderr=None, buffered=True):
    """Returns the exit status and standard error (empty if it is broken)."""
    broken = {1: stdout} | ({2: stderr} if stderr else {})
    streams = {1: subprocess.DEVNULL, 2: subprocess.PIPE}
    opened, closed = [], []
    for number, how in broken.items():
        if how == "full":
            streams[number] = os.open("/dev/full", os.O_WRONLY)
            opened.append(streams[number])
        elif how == "closed pipe":
            end, streams[number] = os.pipe()
            os.close(end)
            opened.append(streams[number])
        elif how == "closed":
            closed.append(number)
    run = [sys.executable, *arguments]
    if closed:  # as a shell does
        run = ["sh", "-c", '"$@" ' + " ".join(f"{n}>&-" for n in closed), "sh", *run]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "" if buffered else "1",
    }
    found = subprocess.run(
        run, cwd=ROOT, env=environment, stdout=streams[1],
        stderr=streams[2], check=False, timeout=60,
    )  # fmt: skip
    for descriptor in opened:
        os.close(descriptor)
    return found.returncode, (found.stderr or b"").decode()


@pytest.mark.parametrize("end,status", [("", 0), ("sys.exit(75)", 75), ("1 / 0", 1)])
@pytest.mark.parametrize("stdout", STREAMS)
def test_run_continues_without_its_output(stdout, end, status):
    found, message = _start(["-c", RUN.replace("END", end)], stdout)
    assert found == status
    warnings = [line for line in message.splitlines() if "can't be written to" in line]
    assert len(warnings) == (stdout != "closed")
    assert "a warning" in message
    assert message.count("Traceback") == (status == 1)
    assert "Exception ignored" not in message


@pytest.mark.parametrize("end,status", [("", 0), ("sys.exit(75)", 75), ("1 / 0", 1)])
@pytest.mark.parametrize("stderr", STREAMS)
@pytest.mark.parametrize("stdout", ["full", "closed pipe"])
def test_run_without_any_output_exits_with_its_status(stdout, stderr, end, status):
    assert _start(["-c", RUN.replace("END", end)], stdout, stderr)[0] == status


@pytest.mark.parametrize("call", ["terminal.print_result", "print"])
@pytest.mark.parametrize("text", ['"it"', '"it" * 10**5'])
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("stdout,status", [("full", 2), ("closed pipe", 141), ("closed", 0)])
def test_command_with_unwritable_output_exits_with_status(call, text, stdout, status, buffered):
    found, message = _start(
        ["-c", PRODUCT.format(text=f"{call}({text})")], stdout, buffered=buffered
    )
    assert found == status
    if stdout == "full":
        assert message.startswith(
            "error: Standard output can't be written to (No space left on dev"
        )
        assert message.count("\n") == 1
    else:
        assert message == ""


@pytest.mark.parametrize("command", [
    ["-m", "data_pipelines.build", "--help"],
    ["-m", "xkd_jax.report", "--help"],
    ["-m", "xkd_jax.parity", "--help"],
    ["main.py", "--help"],
    ["main.py", "--config=configs/demo.py", "--show"],
])  # fmt: skip
def test_help_into_closed_pipe_prints_no_error(command):
    found, message = _start(command, "closed pipe")
    assert found in (1, 141)
    assert message == ""
