"""Measures the work of a host besides training, and prints the load of large runs from that.

    python -m benchmarks.fleet --output=docs/measurements/fleet.json    # measures, then prints
    python -m benchmarks.fleet --table=docs/measurements/fleet.json     # prints, as Markdown

It opens 10^8 records in 10^5 shards by synthetic indexes, that of the split and those of the
shards, computes the order of an epoch of them, reads an epoch on 512 simulated hosts, saves and
restores one of 256 hosts' part of the large model's state, and builds records of generated videos,
each in a separate process. The tables scale the measured rates to a fleet, all hosts of a run
(`fleet_costs`). Linux only.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from benchmarks import fleet_costs, fleet_parts, markdown_table, result_file
from benchmarks.fleet_costs import Rates
from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from data_pipelines.read.shuffle import BLOCK
from xkd_jax.training.checkpoints.versions import versions

PARTS = (
    "opening", "opening_by_shards", "order", "order_in_windows", "hosts", "checkpoint", "building",
    "state",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements.

    Attributes:
      records: of the data set that is opened and ordered.
      shards: of it.
      window: `data.shuffle_window` of the second order.
      epoch: records of the epoch that simulated hosts read.
      hosts: number of simulated hosts.
      batch_size: of their global batch.
      size: of the model whose state is saved.
      saving_hosts: number of hosts that share it.
      videos: from which records are built.
    """

    records: int = 100_000_000
    shards: int = 100_000
    window: int = 1_000_000
    epoch: int = 240_000
    hosts: int = 512
    batch_size: int = 4096
    size: str = "large"
    saving_hosts: int = 256
    videos: int = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command_parser("benchmarks.fleet", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", metavar="FILE", help="JSON of the measurements")
    what.add_argument("--table", metavar="FILE", help="prints the tables of such a file")
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = vars(parser.parse_args(argv))
    output, table = args.pop("output"), args.pop("table")
    try:
        found = load(Path(table)) if table else measure(Sizes(**args), Path(output))
        terminal.print_result("\n".join(lines(found)))
    except UserError as error:
        terminal.print_error(f"error: {error}")
        sys.exit(error.status)


def measure(sizes: Sizes, output: Path) -> dict[str, Any]:
    """Measures all parts, writes them to a file and returns them: {part: measurement}.

    Raises:
      UserError: the sizes do not fit each other, or memory does not suffice.
    """
    if sizes.batch_size % sizes.hosts or sizes.records < sizes.shards:
        raise UserError(
            f"--batch_size={sizes.batch_size} must be a multiple of --hosts={sizes.hosts}, and"
            f" --records={sizes.records} at least --shards={sizes.shards}: give other numbers."
        )
    run: dict[str, Callable[[], dict[str, float]]] = {
        "opening": functools.partial(fleet_parts.opening, sizes.records, sizes.shards),
        "opening_by_shards": functools.partial(
            fleet_parts.opening, sizes.records, sizes.shards, by_split=False
        ),
        "order": functools.partial(fleet_parts.order, sizes.records, sizes.shards),
        "order_in_windows": functools.partial(
            fleet_parts.order, sizes.records, sizes.shards, sizes.window
        ),
        "hosts": functools.partial(
            fleet_parts.hosts, sizes.epoch, sizes.batch_size, sizes.hosts
        ),
        "checkpoint": functools.partial(
            fleet_parts.checkpoint, sizes.size, sizes.saving_hosts
        ),
        "building": functools.partial(fleet_parts.building, sizes.videos),
        "state": functools.partial(fleet_parts.state, sizes.saving_hosts),
    }  # fmt: skip
    found: dict[str, Any] = {"versions": versions(), "sizes": dataclasses.asdict(sizes)}
    for name in PARTS:
        terminal.print_text(f"measures  {name}", sys.stderr)
        found[name] = in_new_process(name, run[name])
        result_file.write(output, found)
    return found


def in_new_process(name: str, function: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Returns the result of a picklable function, run in a new process.

    Raises:
      UserError: the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(function).result()
        except BrokenProcessPool:
            raise UserError(
                f"The measurement of {name} was killed: free memory, or give smaller sizes."
            ) from None


def load(file: Path) -> dict[str, Any]:
    """Reads a file of measurements.

    Raises:
      UserError: the file is not an output of this command, or an unfinished one.
    """

    def is_finished(found: dict[str, Any]) -> bool:
        return all(part in found for part in PARTS) and bool(rates(found))

    return result_file.load(file, "finished measurements", is_finished)


def rates(found: dict[str, Any]) -> Rates:
    """Returns the rates of measurements."""
    opening, order, saved = found["opening"], found["order"], found["checkpoint"]
    state, built = found["state"], found["building"]
    hosts = state["hosts"]
    whole = (state["host_bytes"] * hosts - state["state_bytes"]) / (hosts - 1)
    return Rates(
        record_bytes=built["record_bytes"],
        open_seconds=opening["cpu_seconds"] / opening["shards"],
        open_bytes=opening["peak_bytes"] / opening["shards"],
        order_seconds=order["cpu_seconds"] / order["records"],
        order_bytes=order["peak_bytes"] / min(order["records"], BLOCK),
        save=saved["host_bytes"] / saved["save_cpu_seconds"],
        restore=saved["host_bytes"] / saved["restore_cpu_seconds"],
        divided_bytes=state["state_bytes"] - whole,
        whole_bytes=whole,
        build_seconds=built["cpu_seconds"] / built["videos"],
        steps_between_saves=state["steps_between_saves"],
    )


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields lines of Markdown: the measurements, and the tables of `fleet_costs`."""
    yield from markdown_table.lines(("measured", "CPU time, memory"), _rows(found))
    at = found["versions"]
    yield ""
    yield f"Python {at['python']}, NumPy {at['numpy']}, JAX {at['jax']}, program {at['code']}."
    yield ""
    yield from fleet_costs.tables(rates(found))


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, by in (("opening", "index of the split"), ("opening_by_shards", "shards' indexes")):
        opening = found[name]
        yield (
            f"opening {opening['records']:,} records in {opening['shards']:,} shards by the {by}",
            f"{opening['cpu_seconds']:.1f} s, {opening['peak_bytes'] / 1e6:,.0f} MB",
        )
    for name in ("order", "order_in_windows"):
        order = found[name]
        window = f", windows of {order['window']:,}" if order["window"] else ""
        yield (
            f"order of {order['records']:,} records{window}",
            f"{order['cpu_seconds']:.1f} s, of which {order['first_seconds']:.2f} s before the"
            f" first record; {order['peak_bytes'] / 1e6:,.0f} MB",
        )
    hosts = found["hosts"]
    yield (
        f"an epoch of {hosts['records']:,} records on {hosts['hosts']:,} hosts,"
        f" batch {hosts['batch_size']:,}",
        f"{hosts['missing']} records missing, {hosts['repeated']} read again;"
        f" {hosts['cpu_seconds'] / hosts['hosts']:.2f} s a host",
    )
    saved = found["checkpoint"]
    yield (
        f"checkpoint of {saved['size']}, {saved['state_bytes'] / 1e9:.1f} GB: the part of the first"
        f" of {saved['hosts']} hosts",
        f"{saved['host_bytes'] / 1e6:,.0f} MB; saved in {saved['save_cpu_seconds']:.1f} s,"
        f" restored in {saved['restore_cpu_seconds']:.1f} s",
    )
    built = found["building"]
    yield (
        "building a record of a video of 10 s, 340 x 256",
        f"{built['cpu_seconds'] / built['videos']:.2f} s, {built['record_bytes'] / 1e3:,.0f} kB",
    )


if __name__ == "__main__":
    main()
