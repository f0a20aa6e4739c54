"""Plans of configs/k400.py on TPUs and GPUs: all tables of docs/scaling.md.

    python -m benchmarks.plans --output=docs/measurements/plans.json [--only=v5e:1x1]
    python -m benchmarks.plans --table=docs/measurements/plans.json     # as Markdown

The first command compiles the step of each case that the file lacks, the most important ones first,
and writes the file after each, so that it can be stopped and started again. A case takes minutes on
an idle core. It needs the extras `plan` and `plan-gpu`. Cases that another state of the program
planned are planned again.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import markdown_table, result_file
from configs import k400
from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from xkd_jax.config import pretraining
from xkd_jax.config.architecture import Remat
from xkd_jax.config.pretraining import Config, Split
from xkd_jax.planning import targets
from xkd_jax.planning.chips import GIB
from xkd_jax.planning.plan import Plan, make_plan
from xkd_jax.training.checkpoints.versions import versions


@dataclasses.dataclass(frozen=True)
class Case:
    """A size of the network on devices.

    fsdp, optimizer: of the mesh; `mesh.data` is the rest.
    """

    size: str
    devices: str
    batch_size: int
    remat: Remat = "none"
    fsdp: int = 1
    optimizer: Split = "whole"

    def __str__(self) -> str:
        return f"{self.size} on {self.devices}"

    @property
    def flags(self) -> str:
        """The flags of `main.py` that plan this case."""
        return (
            f"--plan={self.devices} --config.model.size={self.size}"
            f" --config.batch_size={self.batch_size} --config.model.remat={self.remat}"
            f" --config.mesh.fsdp={self.fsdp} --config.mesh.optimizer={self.optimizer}"
        )

    def config(self) -> Config:
        """The run's config."""
        raw = k400.get_config()
        raw.batch_size = self.batch_size
        raw.model.size, raw.model.remat = self.size, self.remat
        raw.mesh.fsdp, raw.mesh.optimizer = self.fsdp, self.optimizer
        return pretraining.resolve(raw)


CASES = (
    Case("base", "v5e:1x1", 16),
    Case("base", "h100:8", 512, optimizer="split"),
    Case("base", "v5e:16x16", 4096, fsdp=16),
    Case("base", "v5e:2x4", 128, optimizer="split"),
    Case("large", "v5e:16x16", 4096, remat="products", fsdp=16),
    Case("base", "v6e:1x1", 32),
    Case("huge", "v5e:16x16", 4096, remat="products", fsdp=16),
    Case("base", "v5p:2x2x1", 128),
    Case("large", "h100:8", 256, remat="products", optimizer="split"),
    Case("base", "v5e:4x4", 256, optimizer="split"),
    Case("huge", "h100:8", 128, remat="all", fsdp=8),
    Case("base", "h100:4x8", 2048, optimizer="split"),
    Case("base", "v5e:8x8", 1024, optimizer="split"),
    Case("base", "h200:8", 1024, optimizer="split"),
    Case("base", "a100:8", 512, optimizer="split"),
    Case("base", "v5e:16x16,slices=2", 8192, fsdp=16),
    Case("base", "v6e:16x16", 8192, fsdp=16),
    Case("base", "v5p:4x4x4", 2048, optimizer="split"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command_parser("benchmarks.plans", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", metavar="FILE", help="JSON, which is completed")
    what.add_argument("--table", metavar="FILE", help="prints the tables of such a file")
    parser.add_argument(
        "--only", default="", metavar="CASE", help="with --output: this case, or these devices"
    )
    args = parser.parse_args(argv)
    try:
        if args.table:
            terminal.print_result("\n".join(tables(load(Path(args.table)))))
        else:
            complete(Path(args.output), args.only)
    except UserError as error:
        terminal.print_error(f"error: {error}")
        sys.exit(error.status)


def complete(output: Path, only: str) -> None:
    """Plans the cases that a file lacks.

    Args:
      output: the file.
      only: devices, or the name of a case such as `base on h100:8`; empty for all.

    Raises:
      UserError: the file has other content, or no case has these devices.
    """
    jax.config.update("jax_platforms", "cpu")
    cases = [case for case in CASES if only in ("", case.devices, str(case))]
    if not cases:
        known = ", ".join(map(str, CASES))
        raise UserError(f"--only={only} is not planned here: give one of {known}.")
    found = load(output) if output.exists() else {}
    here = versions()
    for case in cases:
        if found.get(str(case), {}).get("versions", {}).get("code") == here["code"]:
            continue
        plan = make_plan(case.config(), targets.parse(case.devices))
        found[str(case)] = {"flags": case.flags, "versions": here, **numbers(plan)}
        result_file.write(output, found)
        terminal.print_text(f"planned   {case}")


def load(file: Path) -> dict[str, dict[str, Any]]:
    """Reads the cases of a file.

    Raises:
      UserError: the file is not an output of this command.
    """

    def are_plans(found: dict[str, Any]) -> bool:
        return all("peak_gib" in case for case in found.values())

    return result_file.load(file, "plans", are_plans)


def numbers(plan: Plan) -> dict[str, Any]:
    """Returns the numbers of a plan for the tables; times only if the plan has them."""
    found: dict[str, Any] = {
        "devices": str(plan.where),
        "size": plan.config.model.size,
        "batch_size": plan.config.batch_size,
        "chips": plan.where.chips,
        "peak_gib": round(plan.memory.peak / GIB, 2),
        "limit_gib": round(plan.where.chip.hbm, 2),
        "fits": bool(plan.fits),
        "teraflops": round(plan.flops / 1e12, 2),
    }
    if plan.costs is None or plan.step is None:
        return found | {"unknown": plan.unknown}
    step = plan.step
    found |= {
        "traffic_gb": round(plan.costs.bytes / 1e9, 1),
        "received_gb": round(sum(c.received for c in plan.costs.collectives) / 1e9, 2),
        "matrix_ms": round(1e3 * step.compute, 1),
        "memory_ms": round(1e3 * step.memory, 1),
        "exposed_ms": round(1e3 * step.exposed, 1),
        "bound": step.bound,
        "roofline": _scale(plan, step.seconds),
    }
    if step.compiled is not None:
        found["cycles"] = _scale(plan, step.compiled_seconds)
        found["kernels_ms"] = round(1e3 * step.compiled.kernels, 1)
    return found


def _scale(plan: Plan, seconds: float) -> dict[str, float]:
    return {
        "ms": round(1e3 * seconds, 1),
        "utilization": round(plan.utilization(seconds), 3),
        "chip_hours": round(plan.hours(seconds) * plan.where.chips),
    }


def tables(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a table for each size of the network, and what is missing."""
    for size in dict.fromkeys(case["size"] for case in found.values()):
        yield f"### {size}"
        yield ""
        chosen = [case for case in found.values() if case["size"] == size]
        chosen.sort(key=lambda c: (c["devices"].partition(":")[0], c["chips"]))
        yield from markdown_table.lines(_COLUMNS, map(_cells, chosen))
        yield ""
    for (code, version), cases in _versions(found).items():
        yield f"* Planned with JAX {version}, program {code}: {', '.join(cases)}."
    missing = [str(case) for case in CASES if str(case) not in found]
    if missing:
        yield f"* Not planned yet: {', '.join(missing)}."


_COLUMNS = (
    "devices", "batch", "memory, GiB", "main memory, GB", "received, GB", "not hidden, ms",
    "matrix unit, ms", "`roofline`, ms", "`cycles`, ms", "chip-hours of 800 epochs",
)  # fmt: skip


def _cells(case: dict[str, Any]) -> Iterator[str]:
    yield f"`{case['devices']}`"
    yield f"{case['batch_size']:,}"
    yield f"{case['peak_gib']:.1f} of {case['limit_gib']:.1f}"
    if "roofline" not in case:
        yield from ["-"] * (len(_COLUMNS) - 3)
        return
    yield f"{case['traffic_gb']:.1f}"
    yield f"{case['received_gb']:.1f}" if case["received_gb"] else ""
    yield f"{case['exposed_ms']:.0f}" if case["received_gb"] else ""
    yield f"{case['matrix_ms']:.1f}"
    scales = [case[name] for name in ("roofline", "cycles") if name in case]
    for scale in scales:
        yield f"{scale['ms']:.1f} ({scale['utilization']:.0%})"
    if len(scales) == 1:
        yield ""
    yield " to ".join(f"{scale['chip_hours']:,}" for scale in scales)


def _versions(found: dict[str, dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    cases: dict[tuple[str, str], list[str]] = {}
    for name, case in found.items():
        at = case["versions"]
        cases.setdefault((at["code"], at["jax"]), []).append(name)
    return cases


if __name__ == "__main__":
    main()
