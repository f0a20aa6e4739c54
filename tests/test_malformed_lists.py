"""Official lists with a fault: one sentence names the list, its line and the fault."""

import pytest

from data_pipelines.catalogs import CATALOGS
from data_pipelines.catalogs.catalog import Source
from xkd_jax.errors import UserError

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
    ("hmdb51", "wave_test_split1.txt", "a.avi 1\na.avi 2\n",
     "line 2: a.avi is listed before with another use"),
    ("fsd50k", "vocabulary.csv", "index,label,mid\n0,A,m\n", "line 1: index is 'index'"),
    ("fsd50k", "dev.csv", "fname,labels,split\n1,Music,train\n1,Music,val\n",
     "line 3: 1 is listed before"),
    ("fsd50k", "eval.csv", "fname,labels\n", "lists nothing"),
    ("kinetics400", "train.csv", KINETICS + "a,b,,10,train\n", "line 2: time_start is ''"),
    ("audioset", "class_labels_indices.csv", "index,mid,display_name\nx,/m/a,A\n",
     "line 2: index is 'x'"),
]  # fmt: skip


@pytest.mark.parametrize("data_set,name,content,said", CASES)
def test_a_malformed_list_is_named_with_its_line(tmp_path, data_set, name, content, said):
    for other, text in BESIDE.items():
        (tmp_path / other).write_text(text)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        CATALOGS[data_set](Source(str(tmp_path)))
    assert str(error.value).startswith(str(tmp_path / name))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
