"""Estimated size and time of a build."""

import media_files
import pytest

from data_pipelines.build import build_plan, builder, estimate, videos
from data_pipelines.build.catalogs.catalog import Source
from data_pipelines.build.catalogs.folder import list_items
from data_pipelines.build.estimate import Estimate
from data_pipelines.build.ingest import IngestOptions
from data_pipelines.build.media import MediaOptions


def plan_of(folder):
    options = IngestOptions(MediaOptions(audio=False, short_side=32))
    return build_plan.make_plan(str(folder), "folder", list_items(Source(str(folder))), options)


def test_size_is_extrapolated_by_sizes_of_files(tmp_path):
    source, output = tmp_path / "videos", str(tmp_path / "out")
    source.mkdir()
    for i in range(24):
        frames = media_files.gray_frames(range(0, 250, 2 if i % 3 else 1))
        media_files.write(source / f"{i}.mkv", frames, codec="mjpeg")
    plan, ticks = plan_of(source), []
    with builder.start(plan, output):
        found = estimate.estimate(plan, plan.shards[0].items, output, 1, lambda: ticks.append(1))
        assert (found.files, found.sampled) == (24, 2)
        assert ticks
        builder.build_shards(plan, plan.shards, output, 1)
        builder.finish(plan, output)
    (shard,) = (tmp_path / "out").glob("*.tfrecord-*-of-00001")
    assert found.size == pytest.approx(shard.stat().st_size, rel=0.2)
    assert 0 < found.seconds < 60


def test_files_without_records_have_no_size(tmp_path):
    source, output = tmp_path / "videos", str(tmp_path / "out")
    source.mkdir()
    (source / "text.mp4").write_text("no video")
    plan = plan_of(source)
    with builder.start(plan, output):
        found = estimate.estimate(plan, plan.shards[0].items, output, 1)
    assert (found.files, found.sampled, found.size) == (1, 1, 0)
    assert "about 1 s with 1 worker, and an unknown number of bytes in " in videos.describe(
        found, plan, output, 1
    )
    videos.check_space(found, plan, output)


def test_description_names_time_space_and_sample(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    found = Estimate(240_000, 64, 11_040.0, 48.52e9)
    assert videos.describe(found, plan_of(tmp_path), "s3://bucket/shards", 16) == (
        f"shards    of 240,000 files of {tmp_path}: about 3 h 04 min with 16 workers, and 48.5 GB"
        " in s3://bucket/shards (from 64 files)"
    )
