"""Bounds of JPEG images before they are decoded."""

import pytest

from data_pipelines.format import frame_bounds


@pytest.mark.parametrize(
    "size,stored,refused",
    [
        ((16, 256), 16, False),
        ((64, 64), 16, False),
        ((72, 64), 16, True),
        ((300, 300), 16, True),
        ((300, 300), 0, False),
        ((2160, 3840), 0, False),
        ((3000, 3000), 0, True),
        ((3000, 3000), 1080, False),
        ((0, 24), 16, True),
    ],
)
def test_sizes_are_bounded_by_short_side_of_data_set(size, stored, refused):
    assert bool(frame_bounds.frame_fault(*size, stored)) == refused


@pytest.mark.parametrize("images", [1, 31, 32, 33, 70])
@pytest.mark.parametrize("before", [b"", b"\0"])
def test_scans_of_each_image_are_bounded(images, before):
    scan = b"\xff\xda\0"
    most = before + scan * frame_bounds.MAX_SCANS
    one = memoryview(before + scan)
    assert not frame_bounds.scans_fault([one] * images)
    assert not frame_bounds.scans_fault([one] * (images - 1) + [most])
    fault = frame_bounds.scans_fault([one] * (images - 1) + [most + scan])
    assert fault == "it has 33 scans, more than 32"
