"""Official lists with a fault: one sentence names the list, its line and the fault."""

import pytest

from data_pipelines.build.catalogs import CATALOGS
from data_pipelines.build.catalogs.catalog import Source
from data_pipelines.errors import UserError

ESC50 = "filename,fold,target,category\n"
KINETICS = "label,youtube_id,time_start,time_end,split\n"
# Lists without a fault that are read before those with one.
BESIDE = {
    "vocabulary.csv": "0,Music,/m/04rlf\n",
    "dev.csv": "fname,labels,split\n1,Music,train\n",
}
CASES = [
    ("esc50", "esc50.csv", ESC50 + "a.wav,1,x,dog\n", "line 2: target is 'x'"),
    ("esc50", "esc50.csv", ESC50 + "a.wav,1,nan,dog\n", "line 2: target is 'nan'"),
    ("esc50", "esc50.csv", ESC50 + "a.wav,1.5,0,dog\n", "line 2: fold is '1.5'"),
    ("esc50", "esc50.csv", ESC50 + "a.wav,6,0,dog\n", "line 2: fold is 6"),
    ("esc50", "esc50.csv", ESC50 + "a.wav,1,0,dog\n\na.wav,2,0,dog\n",
     "line 4: a.wav is listed before"),
    ("esc50", "esc50.csv", ESC50 + "a.wav,1,0,dog\nb.wav,2,0,cat\n",
     "line 3: target 0 has two categories"),
    ("esc50", "esc50.csv", ESC50.encode() + b"caf\xe9.wav,1,0,dog\n", "is not UTF-8"),
    ("esc50", "esc50.csv", ESC50 + '"' + "a" * 140_000, "line 2: field larger"),
    ("ucf101", "classInd.txt", "Archery\n", "line 1: 'Archery'"),
    ("ucf101", "classInd.txt", "1 Archery\n2 Bow ling\n", "line 2: '2 Bow ling'"),
    ("ucf101", "classInd.txt", "1 Archery\n1 Bowling\n", "line 2: '1 Bowling'"),
    ("ucf101", "classInd.txt", "1 Archery\n2 Archery\n",
     "line 2: '2 Archery' is listed before as '1 Archery', in"),
    ("fsd50k", "vocabulary.csv", "0,A,m\n0,B,n\n",
     "line 2: '0 B' is listed before as '0 A', in"),
    ("fsd50k", "vocabulary.csv", "0,A,m\n1,A,n\n", "line 2: '1 A' is listed before as '0 A', in"),
    ("audioset", "class_labels_indices.csv", "index,mid,display_name\n0,/m/a,A\n0,/m/b,B\n",
     "line 3: '0 /m/b' is listed before as '0 /m/a', in"),
    ("esc50", "esc50.csv", ESC50 + "a.wav,1,0,dog\nb.wav,1,1,dog\n",
     "line 3: category dog has two targets"),
    ("esc50", "esc50.csv", (ESC50 + "a.wav,1,0,dog\n").encode("utf-16"), "is not UTF-8"),
    ("fsd50k", "vocabulary.csv", "index,label,mid\n0,A,m\n", "line 1: index is 'index'"),
    ("fsd50k", "eval.csv", "fname,labels\n", "is empty: download"),
    ("kinetics400", "train.csv", KINETICS + "a,b,,10,train\n", "line 2: time_start is ''"),
    ("audioset", "class_labels_indices.csv", "index,mid,display_name\nx,/m/a,A\n",
     "line 2: index is 'x'"),
]  # fmt: skip


@pytest.mark.parametrize("data_set,name,content,message", CASES)
def test_malformed_list_is_named_with_its_line(tmp_path, data_set, name, content, message):
    for other, text in BESIDE.items():
        (tmp_path / other).write_text(text)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        CATALOGS[data_set](Source(str(tmp_path)))
    assert str(error.value).startswith(str(tmp_path / name))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


REPEATED = [
    ("audioset", {"class_labels_indices.csv":
                  "index,mid,display_name\n1,/m/b,B\n0,/m/a,A\n1,/m/b,B\n",
                  "eval_segments.csv": 'x, 0, 10, "/m/b"\n'}),
    ("fsd50k", {"vocabulary.csv": "0,A,m\n0,A,m\n1,B,n\n",
                "dev.csv": "fname,labels,split\n1,A,train\n",
                "eval.csv": "fname,labels\n2,B\n"}),
    ("ucf101", {"classInd.txt": "1 A\n2 B\n2 B\n", "trainlist01.txt": "B/v.avi 2\n",
                **{f"{use}list0{k}.txt": "" for use in ("train", "test") for k in (1, 2, 3)
                   if (use, k) != ("train", 1)}}),
]  # fmt: skip


@pytest.mark.parametrize("data_set, lists", REPEATED)
def test_class_listed_twice_is_one_class(tmp_path, data_set, lists):
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    assert CATALOGS[data_set](Source(str(tmp_path))).class_names == ("A", "B")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lists_with_a_bom_and_any_line_ends_are_read(tmp_path, end, mark):
    """Other line separators of Unicode are part of names."""
    name = "a\u2028b\x85c.wav"
    rows = ["filename,fold,target,category", f"{name},1,0,dog", ""]
    (tmp_path / "esc50.csv").write_bytes((mark + end.join(rows)).encode())
    (item,) = CATALOGS["esc50"](Source(str(tmp_path))).splits["all"]
    assert (item.id, item.label_text) == (name, "dog")
