import dataclasses
import json
import os
import pathlib
import signal
import sys
import time

import media_files
import pytest
from stored_files import digests

from data_pipelines.build import __main__ as build
from data_pipelines.build import beam_build, build_plan, builder
from data_pipelines.build.catalogs import CATALOGS
from data_pipelines.build.catalogs.catalog import Source
from data_pipelines.build.ingest import IngestOptions, ingest
from data_pipelines.build.media import MediaOptions
from data_pipelines.errors import UnreachableError


def _build(source, output, *options) -> int:
    return build.main(
        [
            "--dataset=folder",
            f"--source={source}",
            f"--output={output}",
            "--modalities=video",
            "--shards=3",
            *options,
        ]
    )


@pytest.fixture
def videos(tmp_path) -> pathlib.Path:
    folder = tmp_path / "videos"
    for i in range(5):
        (folder / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        media_files.write(folder / f"class{i % 2}" / f"{i}.mp4", media_files.gray_frames([i] * 30))
    (folder / "class0" / "text.mp4").write_text("no video")
    return folder


def test_beam_writes_the_bytes_of_a_local_build(videos, tmp_path, capsys):
    pytest.importorskip("apache_beam", reason="the extra 'beam' is not installed")
    assert _build(videos, tmp_path / "local", "--workers=1") == 0
    capsys.readouterr()
    assert _build(videos, tmp_path / "beam", "--runner=DirectRunner") == 0
    assert "left out 1 of 6 files: 1 unreadable" in capsys.readouterr().out
    assert digests(tmp_path / "beam") == digests(tmp_path / "local")


def ingest_or_fail(item, alive, **options):
    if item.path == "class1/1.mp4":
        time.sleep(600)
    if item.path == "class0/2.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return ingest(item, alive, **options)


def test_hanging_or_crashing_decoder_loses_only_its_file(videos, tmp_path, monkeypatch):
    """`ingest` is replaced on a worker of Beam."""
    monkeypatch.setattr(beam_build, "ingest", ingest_or_fail)
    catalog = CATALOGS["folder"](Source(str(videos)))
    catalog = dataclasses.replace(catalog, modalities=("video",))
    options = IngestOptions(MediaOptions(audio=False))
    plan = build_plan.make_plan(str(videos), "toy", catalog, options, 1)
    output = str(tmp_path / "out")
    with builder.start(plan, output):
        beam_build.build_shard(plan.shards[0], plan.source, options, output, 4.0)
        with pytest.raises(UnreachableError, match="1 of 6 files timed out"):
            builder.finish(plan, output)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["records"] == {"train": 3}
    assert sorted((entry["path"], entry["reason"]) for entry in report["left_out"]) == [
        ("class0/2.mp4", "crashed"),
        ("class0/text.mp4", "unreadable"),
        ("class1/1.mp4", "timed out"),
    ]


def test_missing_beam_is_one_sentence(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert _build(videos, tmp_path / "out", "--runner=DirectRunner") == 2
    assert "needs Apache Beam: pip install -e '.[beam]'." in capsys.readouterr().err


def test_unknown_option_is_refused(videos, tmp_path, capsys):
    with pytest.raises(SystemExit):
        _build(videos, tmp_path / "out", "--shrot_side=64")
    assert "--shrot_side=64" in capsys.readouterr().err
