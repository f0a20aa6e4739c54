"""Lists with paths outside the source, which are never read."""

from __future__ import annotations

import catalog_trees as trees
import pytest

from data_pipelines.errors import UserError

PATHS = [
    "../secret", "a/../../secret", "/etc/secret", "//host/secret",
    "..\\secret", "a\\secret", "C:\\secret", "C:/secret", "\\\\host\\secret", "a\x1b[2J",
]  # fmt: skip


def _lists(path: str) -> dict[str, dict[str, str]]:
    empty = {f"{use}list0{k}.txt": "" for use in ("train", "test") for k in (1, 2, 3)}
    kinetics = "label,youtube_id,time_start,time_end,split\n"
    return {
        "kinetics400": {"train.csv": f"{kinetics}a,{path},0,10,train\n"},
        "kinetics_sound": {"train.csv": f"{kinetics}singing,{path},0,10,train\n"},
        "audioset": {
            "class_labels_indices.csv": 'index,mid,display_name\n0,/m/a,"A"\n',
            "eval_segments.csv": f'{path}, 0, 10, "/m/a"\n',
        },
        "esc50": {"esc50.csv": f"filename,fold,target,category\n{path}.wav,1,0,dog\n"},
        "fsd50k": {
            "vocabulary.csv": "0,A,/m/a\n",
            "dev.csv": f"fname,labels,split\n{path},A,train\n",
            "eval.csv": "fname,labels\n9,A\n",
        },
        "ucf101": {**empty, "classInd.txt": "1 A\n", "trainlist02.txt": f"{path}.avi 1\n"},
        "hmdb51": {f"a_test_split{k}.txt": f"{path}.avi 1\n" for k in (1, 2, 3)},
    }


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", list(_lists("")))
def test_path_outside_source_is_refused_with_its_line(tmp_path, name, path):
    trees.write(tmp_path / "lists", _lists(path)[name])
    trees.files(tmp_path / "source", ["a.mp4"])
    with pytest.raises(UserError) as error:
        trees.listed(name, tmp_path / "source", lists=str(tmp_path / "lists"))
    message = str(error.value)
    assert ", line " in message
    assert "\n" not in message
    assert any(words in message for words in ("leads out", "of Windows", "control character"))


def test_label_outside_source_is_refused(tmp_path):
    header = "label,youtube_id,time_start,time_end,split\n"
    trees.write(tmp_path, {"train.csv": f"{header}../..,x,0,10,train\n"})
    with pytest.raises(UserError, match="leads out of the source"):
        trees.listed("kinetics400", tmp_path)


@pytest.mark.parametrize("name", ["a..b", "a...", "--a", "a:b", "%03d", "a?b#c", "_-"])
def test_unusual_names_inside_source_are_accepted(tmp_path, name):
    trees.write(tmp_path, _lists(name)["fsd50k"])
    trees.files(tmp_path, [f"x/{name}.wav"])
    assert trees.listed("fsd50k", tmp_path).splits["train"][0].path == f"x/{name}.wav"


def test_links_in_source_are_followed(tmp_path):
    """Links are made by the owner of the data; data sets often consist of links."""
    trees.files(tmp_path / "store", ["deep/1.wav"])
    trees.write(tmp_path / "source", _lists("1")["fsd50k"])
    (tmp_path / "source" / "2.wav").symlink_to(tmp_path / "store" / "deep" / "1.wav")
    (tmp_path / "source" / "audio").symlink_to(tmp_path / "store")
    catalog = trees.listed("fsd50k", tmp_path / "source")
    assert catalog.splits["train"][0].path == "audio/deep/1.wav"
