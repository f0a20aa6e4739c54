"""The benchmark of a step on a CPU: processes and their results."""

import sys

import pytest

from benchmarks import cpu_step


def command(text):
    return [sys.executable, "-c", text]


def test_a_process_gives_its_result_with_time_and_memory():
    text = """
print("a warning")
print('RESULT {"name": "matmul", "tflops": 1.0}')
print('RESULT {"name": "ours", "milliseconds": 12.5}')
held = b"1" * 2**26
"""
    found = cpu_step.run("ours", command(text))
    assert (found["name"], found["milliseconds"]) == ("ours", 12.5)
    assert found["peak_gib"] > 2**26 / 2**30
    assert found["cpu_seconds"] < 10


@pytest.mark.parametrize(
    "text",
    [
        "print('the end of its output'); exit(3)",
        """print('RESULT {"name": "ours", "error": "the end of its output"}')""",
    ],
)
def test_a_failed_process_ends_the_benchmark_with_its_output(text):
    with pytest.raises(SystemExit, match=r"(?s)error: .* failed:.*the end of its output"):
        cpu_step.run("ours", command(text))
