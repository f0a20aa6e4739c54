import contextlib

import numpy as np
import simplejpeg

from benchmarks import grain_parts, loader


def test_decoded_images_are_recorded():
    images = [
        simplejpeg.encode_jpeg(np.full((16, 24, 3), 60 * i, np.uint8), quality=90) for i in range(3)
    ]
    decode = simplejpeg.decode_jpeg
    with loader.noted_images() as noted:
        for image in images:
            simplejpeg.decode_jpeg(image, buffer=np.empty((16, 24, 3), np.uint8))
    assert noted == images
    assert simplejpeg.decode_jpeg is decode


def test_both_kinds_yield_same_batches():
    made = []
    for make in (grain_parts.grain_batches, grain_parts.our_batches):
        with contextlib.closing(make(0, 2)) as batches:
            made.append(list(batches))
    for grains, ours in zip(*made, strict=True):
        assert grains.keys() == ours.keys()
        for key in grains:
            np.testing.assert_array_equal(grains[key], ours[key])
