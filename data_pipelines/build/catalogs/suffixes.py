"""Kinds of files, by their names."""

from __future__ import annotations

import enum
import re

_MEDIA = """
    3g2 3gp aac ac3 aif aifc aiff amr ape asf au avi caf divx dts dv eac3 f4v flac flv gif h264
    h265 hevc ivf m1v m2ts m2v m4a m4b m4v mjpeg mjpg mka mkv mov mp2 mp3 mp4 mpe mpeg mpg mts
    mxf nut oga ogg ogm ogv opus qt rm rmvb spx ts tta vob w64 wav weba webm wma wmv wv y4m
"""
# Lists, texts, archives, pictures, subtitles, and other files of download tools.
_OTHER = """
    7z aria2 ass avif bmp bz2 crdownload csv description desktop download gz h5 hdf5 heic htm
    html index ini jpeg jpg json json3 jsonl log lrc lst md md5 meta nfo npy npz parquet pdf
    pickle pkl png ppm py rar rtf sbv sh sha1 sha256 srt srv1 srv2 srv3 ssa sub svg tar temp tgz
    tif tiff tmp torrent tsv ttml txt url vtt webloc webp xls xlsx xml xz yaml yml ytdl zip zst
"""
# Files without a suffix that download tools, clones and systems leave.
_OTHER_NAMES = {
    "authors", "changelog", "checksums", "copying", "dockerfile", "license", "makefile", "md5sums",
    "notice", "readme", "sha1sums", "sha256sums", "thumbs.db",
}  # fmt: skip
_UNFINISHED = re.compile(r"\.part(-frag\d+)?(\.part)?$")
_SHARD = ".tfrecord-"
_SUFFIX = re.compile(r"\.([a-z0-9]{1,12})$")


class Kind(enum.Enum):
    """The content of a file: sound or video, something else, or unknown."""

    MEDIA = "media"
    OTHER = "other"
    UNKNOWN = "unknown"


_KINDS = dict.fromkeys(_OTHER.split(), Kind.OTHER) | dict.fromkeys(_MEDIA.split(), Kind.MEDIA)


def kind(path: str) -> Kind:
    """Returns the kind of a file by its name; unfinished downloads and shards are `OTHER`."""
    name = path.rsplit("/", 1)[-1].lower()
    if _UNFINISHED.search(name) or _SHARD in name or name in _OTHER_NAMES:
        return Kind.OTHER
    found = _SUFFIX.search(name)
    suffix = found[1] if found else ""
    return _KINDS.get(suffix, Kind.UNKNOWN)


def group(path: str) -> str:
    """Returns the name under which files like this one are counted, such as `.jpg files`."""
    name = path.rsplit("/", 1)[-1].lower()
    if _SHARD in name:
        return "shard files"
    if _UNFINISHED.search(name):
        return "unfinished downloads"
    return f"files named {name}" if name in _OTHER_NAMES else f".{name.rpartition('.')[2]} files"


def stem(path: str) -> str:
    """Returns the name of a file without its suffix."""
    name = path.rsplit("/", 1)[-1]
    start, dot, _ = name.rpartition(".")
    return start if dot and start else name
