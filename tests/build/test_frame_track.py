"""Frames that are too large or whose colors can't be converted."""

import math
import struct
import zlib

import av
import media_files
import numpy as np
import pytest
import simplejpeg

from data_pipelines.build import frame_track, media
from data_pipelines.build.damage import UnfitError
from data_pipelines.build.frame_track import FrameTrack
from data_pipelines.build.media import MediaError, MediaOptions

VIDEO_ONLY = MediaOptions(audio=False)
REFUSED = {10: "BT.2020", 11: "2085", 12: "chroma", 14: "ICtCp", 16: "YCgCo-Re"}


def _track(frame: av.VideoFrame, count: int = 8) -> FrameTrack:
    track = FrameTrack(8, 16, 90, 0.0, math.inf)
    for i in range(count):
        track.add(frame, i / 8, 1 / 8)
    track.finish()
    return track


def _of_matrix(matrix: int, pixels: str) -> av.VideoFrame:
    frame = av.VideoFrame(64, 48, pixels)
    frame.colorspace = matrix
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    return frame


@pytest.mark.parametrize("matrix", range(10))
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuvj444p", "gbrp", "gray"])
def test_color_matrix_is_converted(matrix, pixels):
    assert len(_track(_of_matrix(matrix, pixels)).frames) == 8


@pytest.mark.parametrize("matrix", REFUSED)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuvj444p"])
def test_unsupported_color_matrix_is_named(matrix, pixels):
    with pytest.raises(UnfitError, match=f"{REFUSED[matrix]}.* can't be converted") as error:
        _track(_of_matrix(matrix, pixels))
    assert error.value.reason == "unsupported"


@pytest.mark.parametrize(
    "color",
    [(200, 40, 40), (40, 200, 40), (40, 40, 200), (255, 255, 255), (0, 0, 0), (90, 60, 30)],
)
@pytest.mark.parametrize("full", [False, True])
def test_ycgco_is_converted_to_rgb(color, full):
    red, green, blue = color
    y, cg, co = (red + 2 * green + blue) / 4, (2 * green - red - blue) / 4, (red - blue) / 2
    scale = (1, 1, 0) if full else (219 / 255, 224 / 255, 16)
    stored = (y * scale[0] + scale[2], 128 + cg * scale[1], 128 + co * scale[1])
    planes = [np.full((48, 64), round(value), np.uint8) for value in stored]
    frame = av.VideoFrame.from_ndarray(np.stack(planes), format="yuv444p")
    frame.colorspace, frame.color_range = 8, 2 if full else 1
    image = simplejpeg.decode_jpeg(_track(frame).frames[0])
    np.testing.assert_allclose(image, np.broadcast_to(color, image.shape), atol=5)
    assert frame.colorspace == 8


def test_reserved_matrix_counts_as_unspecified():
    pictures = [_track(_of_matrix(matrix, "yuv420p")).frames for matrix in (2, 3)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("matrix", [10, 11, 12, 14])
@pytest.mark.parametrize("keep", [False, True])
def test_file_with_unsupported_color_matrix_is_left_out_with_reason(tmp_path, matrix, keep):
    frames = media_files.gray_frames([90] * 8)
    options = {"colorspace": str(matrix)}
    path = media_files.write(tmp_path / "a.mp4", frames, 8, codec="libx264", options=options)
    with pytest.raises(MediaError, match=REFUSED[matrix]) as error:
        media.decode(path, MediaOptions(audio=False, keep_damaged=keep))
    assert error.value.reason == "unsupported"


def _png(width: int, height: int) -> bytes:
    """A picture with few bytes and many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(30000, 30000), (16384, 16384), (65000, 2000)])
@pytest.mark.parametrize("name", ["a.png", "a.avi", "a.mkv"])
def test_frames_with_too_many_pixels_are_left_out(tmp_path, name, size):
    path = tmp_path / name
    if name == "a.png":
        path.write_bytes(_png(*size))
    else:
        media_files.write(path, media_files.gray_frames([9] * 8), 8, codec="mjpeg")
        path.write_bytes(_resized(path.read_bytes(), size))
    with pytest.raises(MediaError, match=r"\d+ x \d+ pixels|can't be decoded") as error:
        media.decode(str(path), MediaOptions(audio=False, min_seconds=0))
    assert error.value.reason in ("too large", "damaged")


def _resized(content: bytes, size: tuple[int, int]) -> bytes:
    """Replaces the stated size of each JPEG."""
    parts = content.split(b"\xff\xc0\0\x11\x08")
    stated = struct.pack(">HH", *size[::-1])
    return b"\xff\xc0\0\x11\x08".join([parts[0], *(stated + part[4:] for part in parts[1:])])


def test_too_many_pixels_are_refused_with_the_limit(monkeypatch):
    monkeypatch.setattr(frame_track, "MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(UnfitError, match="64 x 48 pixels, more than 3,071") as error:
        _track(av.VideoFrame(64, 48, "yuv420p"))
    assert error.value.reason == "too large"


def test_frames_of_record_are_bounded(monkeypatch):
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
    size = len(_track(frame).frames[0])
    monkeypatch.setattr(frame_track, "MAX_BYTES", 8 * size)
    assert len(_track(frame).frames) == 8
    with pytest.raises(UnfitError, match="--max_seconds") as error:
        _track(frame, 9)
    assert error.value.reason == "too large"


def test_long_still_frame_is_stored_once():
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
    track = FrameTrack(8, 16, 90, 0.0, math.inf)
    track.add(frame, 0.0, 500.0)
    track.finish()
    assert len(track.frames) == 4000
    assert len(set(map(id, track.frames))) == 1
    assert simplejpeg.decode_jpeg(track.frames[0]).mean() < 2
