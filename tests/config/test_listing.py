"""Output of `--show`, and the line of changes."""

import dataclasses

from xkd_jax.config import listing
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.config.pretraining import Config


def test_unchanged_keys_have_no_mark():
    for config in (Config(), EvalConfig()):
        lines = [line for line in listing.lines(config, {}) if line]
        assert all(line.startswith("  ") for line in lines)
        assert not [line for line in lines if "[default:" in line]


def test_changes_have_value_of_file_and_of_command_line():
    before = {"epochs": 1.0, "video": {"patch": (4, 16, 16)}, "data": {"dir": ""}}
    now = {"epochs": 1.0, "video": {"patch": (2, 8, 8)}, "data": {"dir": "shards"}}
    changed = listing.changes(before, now)
    assert changed == {"video.patch": ((4, 16, 16), (2, 8, 8)), "data.dir": ("", "shards")}
    assert (
        listing.described(changed) == "video.patch (4, 16, 16) -> (2, 8, 8), data.dir '' -> shards"
    )
    config = dataclasses.replace(Config(), max_steps=200)
    line = next(
        line for line in listing.lines(config, {"max_steps": (1200, 200)}) if "max_steps =" in line
    )
    assert line.startswith("* max_steps = 200  ")
    assert line.endswith("  [the file: 1200; default: 0]")


def test_table_has_a_row_of_three_cells_for_each_key():
    config = dataclasses.replace(Config(), max_steps=7)
    head, line, *rows = listing.table(config).splitlines()
    assert (head, line) == ("| key | value | meaning |", "| --- | --- | --- |")
    assert len(rows) == len([line for line in listing.lines(config, {}) if line])
    assert any(row.startswith("| max_steps | 7 | ") for row in rows)
    assert all(row.replace("\\|", "").count("|") == 4 for row in rows)
