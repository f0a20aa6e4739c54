"""Load of a run on many hosts on its store and its hosts: pure functions of measured rates.

Times of opening scale with the shards, those of the order with the records, those of checkpoints
with the bytes of a host.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from benchmarks import markdown_table
from data_pipelines.format import held_indexes, shard_index
from data_pipelines.format.record_source import RECORDS_HELD
from data_pipelines.read.shuffle import BLOCK
from xkd_jax.planning.plan import LOADER_RATE
from xkd_jax.planning.slices import CHIPS

CHIP = CHIPS["v5e"]
# Of the base model: 16 clips in 90.0 ms by the compiler's cycles (docs/performance.md). The same
# rate is taken for every number of chips, an upper bound.
CLIPS_A_CHIP = 16
CLIPS_A_SECOND = 178.0
# Assumptions for a store in the region of the hosts: seconds of a small request, and the load that
# a new bucket serves before it scales up.
REQUEST_SECONDS = 0.03
LISTED_AT_ONCE = 1000  # objects of one request, in gs:// and s3://
STORE_REQUESTS = 5_000.0  # a second
STORE_BYTES = 25e9  # a second
# Assumptions: seconds from the start of a program to its first step besides the measured parts,
# with compiled programs in the cache; US dollars for an hour of a core and its memory.
START_SECONDS = 60.0
CORE_HOUR_DOLLARS = 0.07
# Bounds: a start of ten minutes, memory of indexes and order, the largest batch that was planned.
OPENING_SECONDS = 600.0
HOST_BYTES = 500e6
LARGEST_BATCH = 4096


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set and the epochs of its run; `shards` have 1,000 records each, or fewer."""

    name: str
    records: int
    epochs: float

    @property
    def shards(self) -> int:
        return math.ceil(self.records / 1000)


DATA_SETS = (
    DataSet("Kinetics-400", 240_000, 800),
    DataSet("AudioSet", 2_000_000, 400),
    DataSet("100 M clips", 100_000_000, 8),
)
NUMBERS_OF_CHIPS = (8, 64, 256, 1024, 4096)


@dataclasses.dataclass(frozen=True)
class Rates:
    """Measured rates of one host or core, and sizes.

    Attributes:
      record_bytes: of a record of 10 s.
      open_seconds: to open a shard by the index of its split, by CPU time.
      open_bytes: peak memory of it, for each shard.
      order_seconds: to compute the order of an epoch, for each record.
      order_bytes: peak memory of it, for each record of a block.
      save: bytes a second into a checkpoint.
      restore: bytes a second from a checkpoint.
      divided_bytes: of the training state's matrices, which the hosts divide.
      whole_bytes: of the rest of the state, which the first host saves and each reads.
      build_seconds: of one core, to make a record from a video of 10 s.
      steps_between_saves: `checkpoint.every_steps`.
    """

    record_bytes: float
    open_seconds: float
    open_bytes: float
    order_seconds: float
    order_bytes: float
    save: float
    restore: float
    divided_bytes: float
    whole_bytes: float
    build_seconds: float
    steps_between_saves: int


@dataclasses.dataclass(frozen=True)
class Fleet:
    """All hosts of a run of the base model on chips of v5e, with 16 clips on each chip."""

    data: DataSet
    chips: int
    rates: Rates

    @property
    def hosts(self) -> int:
        return math.ceil(self.chips / CHIP.per_host)

    @property
    def batch(self) -> int:
        return CLIPS_A_CHIP * self.chips

    @property
    def requests(self) -> float:
        """Requests a second of all hosts during training.

        One for each record, and one for the index of its shard if the index is not in the host's
        memory.
        """
        return CLIPS_A_SECOND * self.chips * (1 + self._unheld)

    @property
    def _unheld(self) -> float:
        """Fraction of records whose shard's index is not in memory, without `shuffle_window`."""
        return max(0.0, 1 - RECORDS_HELD / self.data.records)

    @property
    def bytes(self) -> float:
        """Bytes a second of all hosts during training; a record is read whole."""
        index = shard_index.ENTRY.itemsize * self.data.records / self.data.shards
        return CLIPS_A_SECOND * self.chips * (self.rates.record_bytes + self._unheld * index)

    @property
    def host_memory(self) -> float:
        """Peak bytes of the split's index, of shards' indexes and of the order, on each host."""
        held = min(self.data.records, RECORDS_HELD) * held_indexes.LOCATED.itemsize
        order = min(self.data.records, BLOCK) * self.rates.order_bytes
        return self.data.shards * self.rates.open_bytes + held + order

    @property
    def opening(self) -> float:
        """Seconds until every host has listed the shards and read the index of their split."""
        # Each shard has an index beside it. A page is requested after the one before it.
        requests = math.ceil(2 * self.data.shards / LISTED_AT_ONCE) + 1
        wait = max(requests * REQUEST_SECONDS, requests * self.hosts / STORE_REQUESTS)
        return wait + self.data.shards * self.rates.open_seconds

    @property
    def state_of_host(self) -> float:
        """Bytes of a checkpoint that the first host, which has the most, saves."""
        return self.rates.divided_bytes / self.hosts + self.rates.whole_bytes

    @property
    def saving(self) -> float:
        """Seconds of a save, during which training continues."""
        return self.state_of_host / self.rates.save

    @property
    def restart(self) -> float:
        """Seconds from the start of the programs to the first step."""
        order = min(self.data.records, BLOCK) * self.rates.order_seconds
        return START_SECONDS + self.opening + order + self.state_of_host / self.rates.restore

    @property
    def announced_preemption(self) -> float:
        """Chip-hours lost by a preemption with SIGTERM: the save and the restart."""
        return self.chips * (self.saving + self.restart) / 3600

    @property
    def sudden_preemption(self) -> float:
        """Chip-hours lost without SIGTERM: half of the steps between saves, and the restart."""
        repeated = self.rates.steps_between_saves / 2 * CLIPS_A_CHIP / CLIPS_A_SECOND
        return self.chips * (repeated + self.restart) / 3600

    @property
    def chip_hours(self) -> float:
        return self.data.records * self.data.epochs / CLIPS_A_SECOND / 3600

    @property
    def limits(self) -> list[str]:
        """Names of the limits that this number of chips exceeds."""
        cores = CLIPS_A_SECOND * CHIP.per_host / LOADER_RATE
        found = {
            "batch": self.batch > LARGEST_BATCH,
            "requests": self.requests > STORE_REQUESTS,
            "bandwidth": self.bytes > STORE_BYTES,
            "opening": self.opening > OPENING_SECONDS,
            "memory": self.host_memory > HOST_BYTES,
            "cores": cores > CHIP.host_cores,
        }
        return [name for name, exceeded in found.items() if exceeded]


_COLUMNS = (
    "chips", "hosts", "batch", "requests/s", "GB/s", "opening, s", "checkpoint, MB a host",
    "save, s", "restart, s", "preemption with SIGTERM, chip-hours",
    "preemption without, chip-hours", "run, hours", "exceeded limits",
)  # fmt: skip


def tables(rates: Rates) -> Iterator[str]:
    """Yields lines of Markdown: a table for each data set, and one of builds."""
    host = Fleet(DATA_SETS[0], CHIP.per_host, rates)
    yield (
        f"A host has {CHIP.per_host} chips of v5e, and makes {host.requests:,.0f} requests/s for"
        f" {host.bytes / 1e6:,.0f} MB/s. *requests/s* and *GB/s* are of all hosts."
    )
    yield ""
    for data in DATA_SETS:
        fleets = [Fleet(data, chips, rates) for chips in NUMBERS_OF_CHIPS]
        yield (
            f"**{data.name}**: {data.records:,} records in {data.shards:,} shards,"
            f" {data.epochs:g} epochs, {fleets[0].chip_hours:,.0f} chip-hours; indexes and order"
            f" take {fleets[0].host_memory / 1e6:,.0f} MB on each host."
        )
        yield ""
        yield from markdown_table.lines(_COLUMNS, map(_cells, fleets))
        yield ""
    hours = build_hours(DATA_SETS[-1].records, rates)
    yield (
        f"**Building** {DATA_SETS[-1].name}: {rates.build_seconds:.2f} core-seconds for a clip of"
        f" 10 s, {hours:,.0f} core-hours, some ${hours * CORE_HOUR_DOLLARS:,.0f} at"
        f" ${CORE_HOUR_DOLLARS} a core-hour."
    )
    yield ""
    sizes = (100, 1_000, 10_000)
    rows = [[f"{cores:,}", f"{hours / cores:,.1f}"] for cores in sizes]
    yield from markdown_table.lines(("cores of the cluster", "hours"), rows)


def build_hours(records: int, rates: Rates) -> float:
    """Returns the core-hours of building a data set from videos of 10 s."""
    return records * rates.build_seconds / 3600


def _cells(fleet: Fleet) -> list[str]:
    return [
        f"{fleet.chips:,}",
        f"{fleet.hosts:,}",
        f"{fleet.batch:,}",
        f"{fleet.requests:,.0f}",
        f"{fleet.bytes / 1e9:,.1f}",
        f"{fleet.opening:,.1f}",
        f"{fleet.state_of_host / 1e6:,.0f}",
        f"{fleet.saving:,.1f}",
        f"{fleet.restart:,.0f}",
        f"{fleet.announced_preemption:,.1f}",
        f"{fleet.sudden_preemption:,.1f}",
        f"{fleet.chip_hours / fleet.chips:,.1f}",
        ", ".join(fleet.limits),
    ]
