"""Many shards with few descriptors."""

import gc
import os
import resource
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import pytest

from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import open_files, record_source, shard_names, shards, tfrecord
from data_pipelines.format.open_files import OpenFiles

COUNT = 300
OWNER = object()

# Runs with few descriptors: threads of two sources, a forked and a spawned process.
READ_ALL = """
import multiprocessing, os, random, resource, sys
from concurrent import futures
from data_pipelines.format import record_source, shard_names, tfrecord

def check(source, seed):
    order = random.Random(seed).choices(range(len(source)), k=600)
    for record in [*range(len(source)), *order]:
        assert source[record] == b"record %d" % record

def main(folder, limit):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    found = shard_names.find_shards(folder, "train")
    sources = [record_source.TFRecordSource(found), record_source.TFRecordSource(found)]
    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(check, sources * 4, range(8)))
    child = os.fork()
    if not child:
        check(sources[0], 0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(check, sources[1], 1).result()
    print("open", len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """300 shards of one record each, without indexes."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(COUNT):
        path = folder / shard_names.shard_name("toy", "train", i, COUNT)
        path.write_bytes(b"".join(tfrecord.frame(b"record %d" % i)))
    return folder


@pytest.mark.parametrize("limit", [48, 256])
def test_more_shards_than_descriptors_are_read(many, tmp_path, limit):
    script = tmp_path / "read_all.py"
    script.write_text(READ_ALL)
    found = subprocess.run(
        [sys.executable, script, many, str(limit)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout.split()[1]) <= limit // 2


def _limited(monkeypatch, soft: int) -> OpenFiles:
    limits = (soft, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    return OpenFiles()


def _paths(folder: Path, count: int) -> list[str]:
    for i in range(count):
        (folder / str(i)).write_bytes(b"%d" % i)
    return [str(folder / str(i)) for i in range(count)]


def _read(files: OpenFiles, owner: object, number: int, path: str) -> bytes:
    with files.opened(owner, number, path) as descriptor:
        return os.pread(descriptor, 10, 0)


@pytest.mark.parametrize("soft,kept", [(16, 4), (64, 8), (80, 10), (2**20, 256), (-1, 256)])
def test_fraction_of_limit_stays_open(tmp_path, monkeypatch, soft, kept):
    paths, files = _paths(tmp_path, 260), _limited(monkeypatch, soft)
    for number, path in enumerate(paths):
        assert _read(files, OWNER, number, path) == b"%d" % number
    assert len(files) == kept
    files.close(OWNER)
    assert len(files) == 0


def test_most_recently_used_files_stay_open(tmp_path, monkeypatch):
    paths, files = _paths(tmp_path, 6), _limited(monkeypatch, 1)
    for number in (0, 1, 2, 3, 0, 4, 0, 5):
        _read(files, OWNER, number, paths[number])
    for path in paths:
        os.remove(path)
    for number in (0, 3, 4, 5):  # still open
        assert _read(files, OWNER, number, paths[number]) == b"%d" % number
    with pytest.raises(FileNotFoundError):
        _read(files, OWNER, 1, paths[1])


def test_file_in_use_is_not_closed(tmp_path, monkeypatch):
    paths, files = _paths(tmp_path, 30), _limited(monkeypatch, 1)
    with files.opened(OWNER, 0, paths[0]) as descriptor:
        for number in range(1, 30):
            _read(files, OWNER, number, paths[number])
        files.close(OWNER)
        assert os.pread(descriptor, 10, 0) == b"0"
    assert _read(files, OWNER, 0, paths[0]) == b"0"


def test_threads_never_read_another_file(tmp_path, monkeypatch):
    paths, files = _paths(tmp_path, 40), _limited(monkeypatch, 1)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    def read(i: int) -> bool:
        number = i * 7 % 40
        return _read(files, OWNER, number, paths[number]) == b"%d" % number

    with futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(4000)))
    assert len(files) == 4
    files.close(OWNER)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


def test_files_are_closed_when_descriptors_run_out(tmp_path, monkeypatch):
    paths, files = _paths(tmp_path, 3), OpenFiles()
    _read(files, OWNER, 0, paths[0])
    real, refused = os.open, []

    def full_once(path, flags):
        if not refused:
            refused.append(path)
            raise OSError(24, "Too many open files", path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", full_once)
    assert _read(files, OWNER, 1, paths[1]) == b"1"
    assert len(files) == 1


def test_lack_of_descriptors_is_transient(many, monkeypatch):
    source = record_source.TFRecordSource(shard_names.find_shards(str(many), "train"))

    def full(path, flags):
        raise OSError(24, "Too many open files", path)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(UnreachableError, match=r"00007-of-00300 can't be opened .Too many open"):
        source[7]


def test_files_of_deleted_source_are_closed(many):
    source = record_source.TFRecordSource(shard_names.find_shards(str(many), "train"))
    source[0], source[1]
    held = len(open_files.OPEN_FILES)
    del source
    gc.collect()
    assert len(open_files.OPEN_FILES) <= held - 2


def test_shard_replaced_while_closed_is_detected(tmp_path, monkeypatch):
    monkeypatch.setattr(open_files, "limit", lambda: 0)  # each read opens its file
    for i in range(2):
        path = tmp_path / shard_names.shard_name("toy", "train", i, 2)
        shards.write_shard(str(path), [b"one"])
        os.utime(path, (0, 0))  # set the time, as the clock of the file system is coarse
    source = record_source.TFRecordSource(shard_names.find_shards(str(tmp_path), "train"))
    assert [source[0], source[1]] == [b"one", b"one"]
    shards.write_shard(str(tmp_path / shard_names.shard_name("toy", "train", 1, 2)), [b"two"])
    assert source[0] == b"one"
    with pytest.raises(UserError, match="was replaced or removed"):
        source[1]


def test_many_shards_are_written_at_once_or_refused(monkeypatch):
    limits = [100, 4000]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: limits.__setitem__(0, new[0]))
    assert open_files.allow(8)
    assert limits == [100, 4000]
    assert open_files.allow(2000)
    assert 2000 < limits[0] <= 4000
    assert not open_files.allow(4000)
