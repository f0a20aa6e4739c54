"""JSON files of a data set and of a build with any content: one sentence, or a round trip."""

import contextlib
import dataclasses
import json
import re

import numpy as np
import pytest
import toy_shards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines import json_file
from data_pipelines.build import build_plan, build_state, builder
from data_pipelines.build.build_report import BuildReport, LeftOut
from data_pipelines.build.catalogs.catalog import Catalog, Item
from data_pipelines.build.ingest import IngestOptions
from data_pipelines.errors import UserError
from data_pipelines.format import metadata as metadata_lib
from data_pipelines.format import storage
from data_pipelines.read.dataset import open_dataset

METADATA = dataclasses.replace(toy_shards.METADATA, left_out={"no audio": 2}, folds=2)
VALUES = dataclasses.asdict(METADATA)
FUZZ = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)  # fmt: skip


def refusal(folder, content: bytes, read=metadata_lib.read) -> str:
    """Returns the error message for a metadata.json."""
    (folder / "metadata.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(str(folder))
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 400
    assert "metadata.json" in str(caught.value)
    assert "again" in str(caught.value)
    return str(caught.value)


def test_checksum_detects_every_change(tmp_path):
    content = metadata_lib.to_json(METADATA).encode()
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(content))[:200]:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        (tmp_path / "metadata.json").write_bytes(changed)
        with contextlib.suppress(UserError):
            assert metadata_lib.read(str(tmp_path)) == METADATA  # white space


@pytest.mark.parametrize(
    "key,value",
    [("class_names", ["a", "c", "b"]), ("hop", 1001), ("multi_label", True), ("folds", 0)],
)
def test_value_that_was_changed_fails_checksum(tmp_path, key, value):
    values = json.loads(metadata_lib.to_json(METADATA)) | {key: value}
    message = refusal(tmp_path, json.dumps(values).encode())
    assert "its checksum is wrong" in message
    assert "its checksum is wrong" in refusal(
        tmp_path, json.dumps(VALUES | {"checksum": 3}).encode()
    )


def test_files_without_checksum_are_read(tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps(VALUES))
    assert metadata_lib.read(str(tmp_path)) == METADATA
    (tmp_path / "metadata.json").write_text(json.dumps(VALUES | {"frame_rate": 8}))
    assert metadata_lib.read(str(tmp_path)) == METADATA


@pytest.mark.parametrize(
    "key,value,words",
    [
        ("name", 3, "name is 3, not a text"),
        ("name", "a/../b", "name is 'a/../b', not lower-case"),
        ("name", "", "name is '', not lower-case"),
        ("frame_rate", "8", "frame_rate is '8', not a number"),
        ("frame_rate", True, "frame_rate is True, not a number"),
        ("frame_rate", -8.0, "frame_rate is -8.0, not 0 to"),
        ("frame_rate", 10**400, "frame_rate is 1"),
        ("short_side", -1, "short_side is -1"),
        ("short_side", 0, "short_side is 0, not 1 to 65500"),
        ("short_side", 1e9, "short_side is 1000000000.0, not a whole number"),
        ("short_side", 10**9, "short_side is 1000000000, not"),
        ("sample_rate", None, "sample_rate is None, not a whole number"),
        ("sample_rate", 2**70, "sample_rate is a number of 71 bits"),
        ("hop", 0, "hop is 0, not 1 to"),
        ("mels", 2**40, "mels is 1099511627776, not"),
        ("mels", [80], r"mels is \[80\], not a whole number"),
        ("fft", False, "fft is False, not a whole number"),
        ("class_names", "abc", "class_names is 'abc', not a list"),
        ("class_names", ["a", 1], r"class_names\[1\] is 1, not a text"),
        ("class_names", {"a": 0}, "class_names is {'a': 0}, not a list"),
        (
            "class_names",
            ["\ud800"],
            r"class_names\[0\] is '\\ud800', which can't be encoded in UTF-8",
        ),
        ("multi_label", 1, "multi_label is 1, not true or false"),
        ("folds", -1, "folds is -1"),
        ("folds", 10**6, "folds is 1000000"),
        ("left_out", [], r"left_out is \[\], not an object"),
        ("left_out", {"no audio": "two"}, r"left_out\['no audio'\] is 'two', not a whole number"),
        ("left_out", {"no audio": -2}, "left_out counts below 0"),
        ("version", "1", "version is '1', not a whole number"),
        ("version", 1.0, "version is 1.0, not a whole number"),
        ("version", 99, "layout version 99, and this program reads version 1"),
        ("extra", 1, "unknown key 'extra'"),
        ("x" * 10**5, 1, "unknown key 'xx"),
    ],
)
def test_invalid_values_are_named(tmp_path, key, value, words):
    message = refusal(tmp_path, json.dumps(VALUES | {key: value}).encode())
    assert re.search(words, message), message


@pytest.mark.parametrize("key", VALUES)
def test_missing_key_is_named(tmp_path, key):
    values = {k: v for k, v in VALUES.items() if k != key}
    assert f"lacks {key}" in refusal(tmp_path, json.dumps(values).encode())


PLAIN = json.dumps(VALUES)


@pytest.mark.parametrize(
    "content,words",
    [
        (b"", "it is not valid JSON"),
        (b"\x00" * 100, "it is not valid JSON"),
        (PLAIN.encode("utf-16"), "is not UTF-8"),
        (PLAIN.replace('"a"', '"\xe9"').encode("latin-1"), "is not UTF-8"),
        (b"\xef\xbb\xbf" + PLAIN.encode(), "it is not valid JSON"),
        (PLAIN.encode() + b"{}", "it is not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[]", "not an object"),
        (b"null", "it is None, not an object"),
        (b'"metadata"', "it is 'metadata', not an object"),
        (b"7", "it is 7, not an object"),
        (PLAIN.replace("8.0", "NaN").encode(), "NaN is not a number"),
        (PLAIN.replace("8.0", "-Infinity").encode(), "-Infinity is not a number"),
        (PLAIN.replace("8.0", "1e999").encode(), "1e999 is not a finite number"),
        (PLAIN.replace("8.0", "9" * 5000).encode(), "it is not valid JSON"),
        (PLAIN.replace("16000", "-1e999").encode(), "-1e999 is not a finite number"),
        (PLAIN.replace('"hop"', '"fft"').encode(), "it has the key 'fft' twice"),
        (b" " * (2**24 + 1), "more than 16,777,216 bytes"),
    ],
)  # fmt: skip
def test_invalid_json_is_described(tmp_path, content, words):
    assert words in refusal(tmp_path, content)


def test_folder_in_place_of_file_is_refused(tmp_path):
    (tmp_path / "metadata.json").mkdir()
    with pytest.raises(UserError, match=r"metadata\.json can't be read \(Is a directory\)"):
        metadata_lib.read(str(tmp_path))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


@FUZZ
@given(key=st.sampled_from([*VALUES, "checksum"]), value=anything)
def test_arbitrary_values_are_refused_or_accepted(tmp_path_factory, key, value):
    folder = tmp_path_factory.getbasetemp() / "any_value"
    folder.mkdir(exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps(VALUES | {key: value}))
    with contextlib.suppress(UserError):
        found = metadata_lib.read(str(folder))
        assert json.loads(json.dumps(getattr(found, key))) == value


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return toy_shards.write(folder, [toy_shards.record(i) for i in range(3)])


def _told(*splits, **others) -> str:
    return json.dumps({"splits": list(splits), **others})


@pytest.mark.parametrize(
    "content",
    [
        "[]", "null", "{", '{"splits": 3}', '{"splits": {"name": "train"}}', '{"splits": [3]}',
        '{"splits": [["name"]]}', '{"splits": [{}]}', "[" * 100_000, '{"a": 1e999}',
        _told({"name": "train"}),
        _told({"name": "train", "shardLengths": 3}),
        _told({"name": "train", "shardLengths": None}),
        _told({"name": "train", "shardLengths": ["2", "-1"]}),
        _told({"name": "train", "shardLengths": ["2", "one"]}),
        _told({"name": "train", "shardLengths": [2, 1.5]}),
        _told({"name": "train", "shardLengths": [2, True]}),
        _told({"name": "train", "shardLengths": ["2", "9" * 30]}),
        _told({"name": "train", "shardLengths": ["2", "\u0661"]}),
        _told({"name": "train", "shardLengths": ["2", [1]]}),
        _told(*[{"name": "train", "shardLengths": ["2", "1"]}] * 2),
        _told({"name": "test", "shardLengths": ["2", "1"]}),
    ],
)  # fmt: skip
def test_invalid_dataset_info_is_damaged(small, content):
    path = storage.join(small, "dataset_info.json")
    whole = storage.read(path)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
        with pytest.raises(UserError, match=r"dataset_info\.json is damaged"):
            open_dataset(toy_shards.CONFIG, small, "train")
    finally:
        with open(path, "wb") as file:
            file.write(whole)
    assert len(open_dataset(toy_shards.CONFIG, small, "train")) == 3


def _plan(folder):
    catalog = Catalog({"train": [Item("a", "a.mp4")]})
    return build_plan.make_plan(str(folder), "toy", catalog, IngestOptions(), 1)


BROKEN = ["", "[]", "{", '{"digest": 3, "options": {}}', '{"digest": "x"}', "[" * 100_000]


@pytest.mark.parametrize("content", BROKEN)
def test_damaged_plan_of_unfinished_build_is_named(tmp_path, content):
    plan = _plan(tmp_path)
    with builder.start(plan, str(tmp_path / "out")):
        pass
    (tmp_path / "out" / ".build" / "plan.json").write_text(content)
    with (
        pytest.raises(UserError, match=r"whose plan is damaged .*plan\.json: .*: give another"),
        builder.start(plan, str(tmp_path / "out")),
    ):
        pass


@pytest.mark.parametrize("content", [*BROKEN, '{"records": 1, "size": true, "left_out": []}'])
def test_shard_with_damaged_report_is_rebuilt(tmp_path, content):
    plan, out = _plan(tmp_path), str(tmp_path / "out")
    with builder.start(plan, out):
        builder.write_shard(plan.shards[0], [], out)
        assert not builder.unfinished(plan.shards, out)
        (report,) = (tmp_path / "out" / ".build").glob("toy-*.json")
        report.write_text(content)
        assert builder.unfinished(plan.shards, out) == list(plan.shards)


@pytest.mark.parametrize("content", [*BROKEN, '{"name": "toy"}'])
def test_damaged_report_of_finished_build_is_named(tmp_path, content):
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(UserError, match=r"report\.json is damaged"):
        build_state.read_finished(_plan(tmp_path), str(tmp_path))


def test_reports_round_trip():
    left_out = [LeftOut("train", "é.mp4", "damaged", "why")]
    report = BuildReport("toy", "1", {"a": {"b": [1, None]}}, {"train": 3}, 4, left_out)
    values = json_file.parse(json.dumps(dataclasses.asdict(report)).encode())
    found = json_file.build(BuildReport, values)
    assert dataclasses.replace(found, ignored=()) == report
