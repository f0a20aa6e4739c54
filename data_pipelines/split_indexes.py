"""Writes the index of each split of a data set, which makes its shards open faster.

    python -m data_pipelines.split_indexes SHARDS

SHARDS is the folder (or URL) of a data set of data_pipelines.build. A build writes these indexes at
its end; this command writes them again after shards were changed by hand, or for data sets of
earlier versions. The records are not changed. Shards that are served by https:// need the indexes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from data_pipelines import resumable_command, terminal
from data_pipelines.activity import Activity
from data_pipelines.command_parser import command_parser
from data_pipelines.format import metadata as metadata_lib
from data_pipelines.format import shard_names, split_index
from data_pipelines.read import described_splits
from data_pipelines.terminal import count


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command_parser("data_pipelines.split_indexes", __doc__)
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL of the data set")
    directory = parser.parse_args(argv).shards
    return resumable_command.exit_status(lambda: _write(directory), directory)


def _write(directory: str) -> int:
    """Writes the index of each split of a data set; returns the exit status."""
    name = metadata_lib.read(directory).name
    for split in described_splits.names(directory):
        sizes = list(shard_names.find_shards(directory, split).values())
        with Activity(f"reading the indexes of {count(len(sizes), 'shard')}"):
            index = split_index.write(directory, name, split, sizes)
        records = count(int(index.shards["records"].sum()), "record")
        terminal.print_text(f"indexed   {split}: {records}, digest {index.digest}")
    return 0


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
