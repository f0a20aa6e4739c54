"""Display matrices: the eight orientations, from files and from numbers."""

import math

import av
import media_files
import numpy as np
import pytest
import simplejpeg

from data_pipelines.build import media, orientation
from data_pipelines.build.frame_track import FrameTrack
from data_pipelines.build.media import MediaOptions
from data_pipelines.build.orientation import Orientation

# Grays of the stored quadrants, and those shown with (a, b, c, d): a point (p, q) of the stored
# picture is shown at (a p + c q, b p + d q), q downwards.
STORED = [[20, 90], [160, 230]]
SHOWN = {
    (1, 0, 0, 1): [[20, 90], [160, 230]],  # upright
    (-1, 0, 0, 1): [[90, 20], [230, 160]],  # left and right swapped
    (1, 0, 0, -1): [[160, 230], [20, 90]],  # top and bottom swapped
    (-1, 0, 0, -1): [[230, 160], [90, 20]],  # upside down
    (0, 1, -1, 0): [[160, 20], [230, 90]],  # a quarter turn clockwise
    (0, -1, 1, 0): [[90, 230], [20, 160]],  # counterclockwise
    (0, 1, 1, 0): [[20, 160], [90, 230]],  # transposed
    (0, -1, -1, 0): [[230, 90], [160, 20]],  # transposed along the other diagonal
}
NO_ANGLE = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1), (1, 1, 1, 1), (1, 1, 0, 0)]


def quadrants(image: np.ndarray) -> list[list[int]]:
    height, width = image.shape[:2]
    return [[int(image[y * height // 4, x * width // 4].mean()) for x in (1, 3)] for y in (1, 3)]


def decoded(path, matrix) -> np.ndarray:
    frame = np.repeat(np.repeat(np.array(STORED, np.uint8), 24, 0), 32, 1)
    media_files.write(path, [np.stack([frame] * 3, -1)] * 8, 8)
    media_files.set_display_matrix(path, matrix)
    found = media.decode(str(path), MediaOptions(audio=False, short_side=48))
    return simplejpeg.decode_jpeg(found.frames[0])


@pytest.mark.parametrize("matrix", SHOWN)
@pytest.mark.parametrize("scale", [1, 0.5])
def test_display_matrix_is_applied(tmp_path, matrix, scale):
    image = decoded(tmp_path / "a.mp4", [scale * n for n in matrix])
    np.testing.assert_allclose(quadrants(image), SHOWN[matrix], atol=4)
    turned = matrix[0] == 0
    assert image.shape[:2] == ((64, 48) if turned else (48, 64))


@pytest.mark.parametrize("matrix", NO_ANGLE)
def test_matrix_without_angle_is_ignored(tmp_path, matrix):
    image = decoded(tmp_path / "a.mp4", matrix)
    np.testing.assert_allclose(quadrants(image), STORED, atol=4)
    assert image.shape[:2] == (48, 64)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", range(-170, 191, 20))
def test_angles_are_rounded_to_quarter_turns(degrees, mirrored):
    cosine, sine = (65536 * f(math.radians(degrees)) for f in (math.cos, math.sin))
    matrix = [cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30]  # rotated counterclockwise
    if mirrored:
        matrix[:2] = [-cosine, sine]
    found = orientation.of_matrix(np.array(matrix).astype(np.int32))
    assert found == Orientation(mirrored, round(degrees / 90) % 4)


def test_matrix_of_the_largest_int32_values_is_read():
    most, least = 2**31 - 1, -(2**31)
    found = orientation.of_matrix(np.array([least, 0, 0, 0, most, 0, 0, 0, most], np.int32))
    assert found == Orientation(mirrored=True)


def _orientation_message(mirrored: bool, upended: bool, quarters: int) -> bytes:
    """Returns a NAL unit of H.264 with the message "display orientation"."""
    bits = f"0{mirrored:d}{upended:d}{quarters << 14:016b}1" + "0" + "100"
    return b"\0\0\0\1\x06\x2f\x03" + int(bits, 2).to_bytes(3, "big") + b"\x80"


@pytest.mark.parametrize(
    "message, matrix",
    [
        ((True, False, 0), (-1, 0, 0, 1)),
        ((False, True, 0), (1, 0, 0, -1)),
        ((False, False, 1), (0, -1, 1, 0)),
        ((False, False, 3), (0, 1, -1, 0)),
    ],
)
def test_orientation_in_h264_stream_is_applied(tmp_path, message, matrix):
    frame = np.repeat(np.repeat(np.array(STORED, np.uint8), 24, 0), 32, 1)
    path = tmp_path / "a.h264"
    media_files.write(path, [np.stack([frame] * 3, -1)] * 8, 8, codec="libx264")
    content = path.read_bytes()
    where = content.index(b"\0\0\1\x65")  # the first picture
    path.write_bytes(content[:where] + _orientation_message(*message) + content[where:])
    options = MediaOptions(audio=False, short_side=48, min_seconds=0)
    image = simplejpeg.decode_jpeg(media.decode(str(path), options).frames[0])
    np.testing.assert_allclose(quadrants(image), SHOWN[matrix], atol=6)


def test_frames_keep_one_size_when_orientation_changes(monkeypatch):
    monkeypatch.setattr(orientation, "of_frame", lambda frame: Orientation(quarters=frame.pts))
    track = FrameTrack(8, 48, 90, 0.0, math.inf)
    for i, quarters in enumerate([0, 1, 2, 3]):
        frame = av.VideoFrame(64, 48, "yuv420p")
        frame.pts = quarters
        track.add(frame, i / 8, 1 / 8)
    track.finish()
    assert len(track.frames) == 4
    assert {simplejpeg.decode_jpeg_header(jpeg)[:2] for jpeg in track.frames} == {(48, 64)}
