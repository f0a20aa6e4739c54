"""Mutation run over `xkd_jax/method/`: counts the small changes of the code that tests detect.

    pip install -e '.[test,mutation]' -c locks/3.12.txt
    python -m benchmarks.mutation

All are some 1,500 mutants, in eight minutes on two cores. A later call tests only mutants that are
new or changed; `rm -r mutants` starts from the beginning.

Prints for each file how many were tested, killed (a test failed), equivalent (listed with the
reason in tests/method/equivalent_mutants.txt) and survived, and the score: killed over those tested
that are not equivalent. The exit status is 1 below 95 %. Settings: `tool.mutmut` in pyproject.toml.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from data_pipelines.command_parser import command_parser

ROOT = Path(__file__).parents[1]
EQUIVALENT = ROOT / "tests" / "method" / "equivalent_mutants.txt"
WANTED = 0.95
SURVIVED = (0, 33)  # statuses of mutmut: no test failed; there is no test
# Compilation cache, shared by the processes of all mutants.
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / "mutants" / "programs"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def equivalent() -> set[str]:
    """Returns the descriptions (`described`) of the listed equivalent mutants."""
    lines = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    return {line.rpartition(" # ")[0] for line in lines if " # " in line}


def described(mutant: str, diff: str) -> str:
    """Returns `MODULE.FUNCTION: CHANGED LINES`, independent of line numbers."""
    lines = diff.splitlines()
    changed = [line[1:].strip() for line in lines if line[:1] == "+" and line[:3] != "+++"]
    function = mutant.removeprefix("xkd_jax.method.").rpartition("__mutmut_")[0]
    return f"{function.replace('.x_', '.')}: {' '.join(changed)}"


def main() -> int:
    """Runs mutmut and prints the table; returns the exit status."""
    parser = command_parser("benchmarks.mutation", __doc__)
    parser.add_argument(
        "mutants", nargs="*", metavar="MUTANTS",
        help="patterns such as 'xkd_jax.method.losses*'; all unless given",
    )  # fmt: skip
    arguments = parser.parse_args()
    mutmut = [sys.executable, "-m", "mutmut"]
    subprocess.run(
        [*mutmut, "run", *arguments.mutants], cwd=ROOT, env=os.environ | CACHE, check=False
    )
    known, survivors, total = equivalent(), [], Counter[str]()
    print("\nfile                     tested  killed  equivalent  survived  score")
    for file in sorted((ROOT / "mutants" / "xkd_jax" / "method").glob("*.py.meta")):
        statuses = json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
        count: Counter[str] = Counter()
        for mutant, status in statuses.items():
            if status is None:
                continue
            kind = "killed"
            if status in SURVIVED:
                diff = subprocess.run(
                    [*mutmut, "show", mutant], cwd=ROOT, capture_output=True, text=True, check=True
                ).stdout
                kind = "equivalent" if described(mutant, diff) in known else "survived"
                if kind == "survived":
                    survivors.append(described(mutant, diff))
            count[kind] += 1
        if count:
            print(row(file.name.removesuffix(".meta"), count))
        total += count
    print(row("all", total))
    for text in survivors:
        print(f"survived  {text}")
    return int(score(total) < WANTED)


def score(count: Counter[str]) -> float:
    """Returns the fraction of killed mutants among those that are not equivalent."""
    return count["killed"] / max(count["killed"] + count["survived"], 1)


def row(name: str, count: Counter[str]) -> str:
    """One line of the table."""
    killed, equal, survived = (count[kind] for kind in ("killed", "equivalent", "survived"))
    numbers = f"{count.total():6} {killed:7} {equal:11} {survived:9}"
    return f"{name:24} {numbers} {score(count):6.1%}"


if __name__ == "__main__":
    sys.exit(main())
