"""benchmarks.fleet: its measurements at small sizes, and its costs by closed forms."""

import functools
import json
import os

import pytest

from benchmarks import fleet, fleet_costs, fleet_parts
from benchmarks.fleet_costs import DataSet, Fleet, Rates

RATES = Rates(
    record_bytes=1e6,
    open_seconds=1e-3,
    open_bytes=40_000.0,
    order_seconds=2e-6,
    order_bytes=60.0,
    save=1e8,
    restore=2e8,
    divided_bytes=8e9,
    whole_bytes=1e8,
    build_seconds=0.36,
    steps_between_saves=2000,
)
MILLION = DataSet("million", 1_000_000, 2)


def test_rates_of_the_store_are_proportional_to_chips():
    small, large = (Fleet(MILLION, chips, RATES) for chips in (8, 4096))
    assert (small.hosts, large.hosts) == (2, 1024)
    assert large.requests == 512 * small.requests == 4096 * 178
    assert large.bytes == large.requests * 1e6
    assert large.batch == 65_536
    assert small.chip_hours == large.chip_hours == pytest.approx(2e6 / 178 / 3600)


def test_opening_is_bound_by_latency_and_then_by_the_store():
    """Two pages of 1,000 objects and one index, 30 ms each; or 5,000 requests a second."""
    assert Fleet(MILLION, 8, RATES).opening == pytest.approx(3 * 0.03 + 1)
    assert Fleet(MILLION, 4096, RATES).opening == pytest.approx(3 * 1024 / 5000 + 1)


def test_offsets_and_order_take_memory_up_to_a_bound():
    """16 bytes for each record up to 2^23, 60 for each up to 2^22, and 40,000 a shard."""
    assert Fleet(MILLION, 8, RATES).host_memory == pytest.approx(1000 * 4e4 + 1e6 * (16 + 60))
    large = Fleet(DataSet("large", 10**8, 1), 8, RATES)
    assert large.host_memory == pytest.approx(10**5 * 4e4 + 2**23 * 16 + 2**22 * 60)


def test_records_whose_offsets_are_not_held_take_a_second_request():
    """Their index has 12 bytes for each of the 1,000 records of the shard."""
    large = Fleet(DataSet("large", 2**25, 1), 8, RATES)
    assert large.requests == 8 * 178 * 1.75
    assert large.bytes == pytest.approx(8 * 178 * (1e6 + 0.75 * 12_000), rel=1e-4)


def test_checkpoints_are_divided_except_their_whole_part():
    fleet_of_4 = Fleet(MILLION, 16, RATES)
    assert fleet_of_4.state_of_host == 8e9 / 4 + 1e8
    assert fleet_of_4.saving == 21.0
    opening = 3 * 0.03 + 1
    assert fleet_of_4.restart == pytest.approx(60 + opening + 2 + 10.5)
    assert fleet_of_4.announced_preemption == pytest.approx(16 * (21 + fleet_of_4.restart) / 3600)
    sudden = 16 * (1000 * 16 / 178 + fleet_of_4.restart) / 3600
    assert fleet_of_4.sudden_preemption == pytest.approx(sudden)


@pytest.mark.parametrize(
    ("data", "chips", "limits"),
    [
        (MILLION, 8, []),
        (MILLION, 64, ["requests"]),
        (MILLION, 512, ["batch", "requests", "bandwidth"]),
        (DataSet("large", 10_000_000, 1), 8, ["memory"]),
        (DataSet("huge", 10**9, 1), 4096, [
            "batch", "requests", "bandwidth", "opening", "memory",
        ]),
    ],
)  # fmt: skip
def test_limiting_resources_are_named(data, chips, limits):
    assert Fleet(data, chips, RATES).limits == limits


def test_hours_of_a_build_follow_from_its_rates():
    assert fleet_costs.build_hours(100_000_000, RATES) == pytest.approx(10_000)


def test_tables_are_rectangular():
    lines = list(fleet_costs.tables(RATES))
    assert sum(line.startswith("**") for line in lines) == 4
    tables = "\n".join(line if line.startswith("|") else "" for line in lines).split("\n\n")
    for table in filter(None, (table.strip() for table in tables)):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "10,000 core-hours, some $700 " in "\n".join(lines)


@pytest.mark.parametrize("by_split", [True, False])
def test_opening_counts_all_records_of_linked_shards(by_split):
    found = fleet_parts.opening(2_050, 100, by_split)  # more than differ
    assert (found["records"], found["shards"]) == (2_000, 100)
    assert found["peak_bytes"] >= 0


@pytest.mark.parametrize("window", [0, 100])
def test_order_is_measured(window):
    found = fleet_parts.order(1000, 10, window)
    assert 0 <= found["first_seconds"] <= found["cpu_seconds"]


@pytest.mark.parametrize(("records", "batch_size", "hosts"), [(240, 64, 64), (1000, 96, 8)])
def test_simulated_hosts_read_an_epoch_once(records, batch_size, hosts):
    found = fleet_parts.hosts(records, batch_size, hosts)
    assert (found["missing"], found["repeated"]) == (0, 0)


def test_part_of_the_state_is_a_fraction_and_the_whole_rest():
    """Vectors and indivisible embeddings are not divided."""
    alone, part = fleet_parts.state(1), fleet_parts.state(256)
    assert alone["host_bytes"] == alone["state_bytes"] == part["state_bytes"]
    assert part["state_bytes"] / 256 < part["host_bytes"] < part["state_bytes"] / 30
    # Trained parameters have two moments: 206.3 M of 396.4 M with the teachers (configs/k400.py).
    assert part["state_bytes"] / 4e6 == pytest.approx(396.4 + 2 * 206.3, abs=0.2)


def test_part_of_the_state_is_saved_and_restored():
    found = fleet_parts.checkpoint("96/1/3:48/1/3", 64)
    assert 0 < found["host_bytes"] < found["state_bytes"]
    assert found["save_seconds"] > 0


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A file of made-up measurements by the command."""
    part = {
        "cpu_seconds": 10.0,
        "peak_bytes": 1e9,
        "records": 1000,
        "shards": 10,
        "window": 0,
        "first_seconds": 0.5,
    }
    made = {
        "opening": part,
        "opening_by_shards": part,
        "order": part,
        "order_in_windows": part | {"window": 100},
        "hosts": {"hosts": 8, "batch_size": 16, "missing": 0, "repeated": 0} | part,
        "checkpoint": {"size": "large", "hosts": 4, "state_bytes": 10e9, "host_bytes": 2e9,
                       "save_cpu_seconds": 4.0, "restore_cpu_seconds": 2.0},
        "building": {"videos": 4, "cpu_seconds": 2.0, "record_bytes": 7e5},
        "state": {"hosts": 5, "state_bytes": 5e8, "host_bytes": 2e8, "steps_between_saves": 50},
    }  # fmt: skip
    monkeypatch.setattr(fleet, "in_new_process", lambda name, function: made[name])
    file = tmp_path / "fleet.json"
    fleet.main([f"--output={file}", "--records=1000", "--shards=10"])
    return file


def test_rates_follow_from_measurements(measured):
    rates = fleet.rates(json.loads(measured.read_text()))
    assert (rates.open_seconds, rates.order_seconds) == (1.0, 0.01)
    assert (rates.open_bytes, rates.order_bytes) == (1e8, 1e6)
    assert (rates.save, rates.restore) == (5e8, 1e9)
    assert rates.whole_bytes == 1.25e8  # 5 hosts: 1.25e8 + 3.75e8 / 5 = 2e8
    assert rates.divided_bytes == 3.75e8
    assert rates.build_seconds == 0.5


def test_table_is_printed_from_a_file(measured, capsys):
    capsys.readouterr()
    fleet.main([f"--table={measured}"])
    printed = capsys.readouterr().out
    order = "10.0 s, of which 0.50 s before the first record; 1,000 MB"
    assert f"| order of 1,000 records, windows of 100 | {order} |" in printed
    assert "10 shards by the shards' indexes | 10.0 s, 1,000 MB |" in printed
    assert "0 records missing, 0 read again" in printed
    assert printed.count("\n| 4,096 | 1,024 | 65,536 |") == len(fleet_costs.DATA_SETS)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"opening": 1}'])
def test_other_files_are_refused(content, tmp_path, capsys):
    file = tmp_path / "fleet.json"
    file.write_text(content)
    with pytest.raises(SystemExit) as ended:
        fleet.main([f"--table={file}"])
    assert ended.value.code == 2
    assert str(file) in capsys.readouterr().err


def test_hosts_that_do_not_divide_the_batch_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        fleet.main([f"--output={tmp_path}/a.json", "--hosts=3"])
    assert ended.value.code == 2
    assert "--hosts=3" in capsys.readouterr().err


def test_killed_measurement_is_reported():
    with pytest.raises(Exception, match="order was killed: free memory"):
        fleet.in_new_process("order", functools.partial(os._exit, 9))
