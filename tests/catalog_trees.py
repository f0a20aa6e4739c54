"""Miniature trees of data sets in their original layouts and list formats."""

from __future__ import annotations

from data_pipelines.build.catalogs import CATALOGS
from data_pipelines.build.catalogs.catalog import Source


def files(folder, paths) -> str:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return str(folder)


def write(folder, texts) -> None:
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def listed(name: str, folder, **source):
    return CATALOGS[name](Source(str(folder), **source))


KINETICS = {
    "annotations/train.csv": (
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "playing drums,---0dWlqevI,19,29,train,0\n"
        '"abseiling",_AbC,0,10,train,1\n'
        "strumming guitar,strum,5,15,train,0\n"
    ),
    "annotations/val.csv": (
        "label,youtube_id,time_start,time_end,split\nplaying drums,gone,100,110,validate\n"
    ),
}


def kinetics(folder):
    write(folder, KINETICS)
    return files(
        folder,
        [
            "train/playing drums/---0dWlqevI_000019_000029.mp4",
            "train/abseiling/_AbC_000000_000010.mkv",
            "train/strumming guitar/strum_000005_000015.webm",
        ],
    )


def audioset(folder) -> str:
    write(
        folder,
        {
            "class_labels_indices.csv": (
                "index,mid,display_name\n"
                '0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n2,/m/04rlf,"Music"\n'
            ),
            "balanced_train_segments.csv": (
                "# Segments csv created Sun Mar  5 10:54:31 2017\n"
                "# num_ytids=2, num_segs=2, num_unique_labels=3, num_positive_labels=3\n"
                "# YTID, start_seconds, end_seconds, positive_labels\n"
                '--PJHxphWEs, 30.000, 40.000, "/m/04rlf,/m/09x0r"\n'
                '-abc, 0.000, 10.000, "/m/05zppz"\n'
            ),
            "eval_segments.csv": '# c\nzzz, 7.000, 17.000, "/m/04rlf"\n',
        },
    )
    return str(folder)


def ucf101(folder) -> str:
    lists = {
        "classInd.txt": "1 ApplyEyeMakeup\n2 Archery\n10 Billiards\n",
        "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n",
        "testlist01.txt": "Archery/v_Archery_g01_c01.avi\nBilliards/v_Billiards_g01_c01.avi\n",
        "trainlist02.txt": "Archery/v_Archery_g01_c01.avi 2\n",
        "testlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n",
        "trainlist03.txt": "Archery/v_Archery_g01_c01.avi 2\n",
        "testlist03.txt": "Billiards/v_Billiards_g01_c01.avi\r\n",
    }
    write(folder, {f"ucfTrainTestlist/{name}": text for name, text in lists.items()})
    return files(
        folder,
        [
            "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
            "UCF-101/Archery/v_Archery_g01_c01.avi",
            "UCF-101/Billiards/v_Billiards_g01_c01.avi",
        ],
    )


def hmdb51(folder) -> str:
    uses = {"brush_hair": ("1 2", "2 1", "0 1"), "cartwheel": ("1 0", "1 0", "2 0")}
    for name, folds in uses.items():
        for k, numbers in enumerate(folds, 1):
            a, b = numbers.split()
            text = f"A_{name}_h_nm.avi {a} \nB b!_{name}#1.avi {b} \n"
            write(folder, {f"testTrainMulti_7030_splits/{name}_test_split{k}.txt": text})
    return files(
        folder,
        [f"{n}/{f}" for n in uses for f in (f"A_{n}_h_nm.avi", f"B b!_{n}#1.avi")],
    )


def fsd50k(folder) -> str:
    write(
        folder,
        {
            "FSD50K.ground_truth/vocabulary.csv": (
                "0,Accelerating_and_revving,/m/07q2z82\n1,Accordion,/m/0mkg\n2,Music,/m/04rlf\n"
            ),
            "FSD50K.ground_truth/dev.csv": (
                "fname,labels,mids,split\n"
                '64760,"Music,Accordion","/m/04rlf,/m/0mkg",train\n'
                "16399,Accordion,/m/0mkg,val\n"
            ),
            "FSD50K.ground_truth/eval.csv": "fname,labels,mids\n37199,Music,/m/04rlf\n",
        },
    )
    return files(
        folder,
        [
            "FSD50K.dev_audio/64760.wav",
            "FSD50K.dev_audio/16399.wav",
            "FSD50K.eval_audio/37199.wav",
        ],
    )
