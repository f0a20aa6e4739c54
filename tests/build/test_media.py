import errno
import pathlib
from unittest.mock import Mock

import av
import media_files
import numpy as np
import pytest
import simplejpeg

from data_pipelines.build import media
from data_pipelines.build.media import MediaError, MediaOptions
from data_pipelines.errors import UserError

VIDEOS = pathlib.Path(__file__).parents[3] / "shared" / "videos"
BOTH = MediaOptions()
VIDEO_ONLY = MediaOptions(audio=False)


def _reason(path, options=BOTH) -> str:
    with pytest.raises(MediaError, match=pathlib.Path(path).name) as error:
        media.decode(str(path), options)
    assert str(error.value).count(". ") == 0
    return error.value.reason


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_frame_visible_at_each_time_is_chosen(tmp_path, name):
    levels = [4 * i for i in range(60)]
    path = media_files.write(tmp_path / name, media_files.gray_frames(levels), frame_rate=30)
    found = media.decode(path, VIDEO_ONLY)
    assert found.end == pytest.approx(2.0)
    # Frame k is visible from k / 30 to (k + 1) / 30 s.
    expected = [4 * int(k / 8 * 30 + 1e-3) for k in range(16)]
    np.testing.assert_allclose(media_files.levels(found.frames), expected, atol=3)


def test_slow_video_repeats_frames(tmp_path):
    path = media_files.write(tmp_path / "a.mkv", media_files.gray_frames([20, 120, 220]), 2)
    np.testing.assert_allclose(
        media_files.levels(media.decode(path, VIDEO_ONLY).frames),
        [20] * 4 + [120] * 4 + [220] * 4,
        atol=3,
    )


def test_frames_with_uneven_time_stamps_are_chosen_by_time(tmp_path):
    frames = media_files.gray_frames([10, 60, 110, 160])
    path = media_files.write(tmp_path / "a.mkv", frames, times=[0, 0.5, 0.6, 1.0])
    levels = media_files.levels(media.decode(path, VIDEO_ONLY).frames)
    np.testing.assert_allclose(levels[:9], [10] * 4 + [60] + [110] * 3 + [160], atol=3)


@pytest.mark.parametrize("size, expected", [((64, 48), (22, 16)), ((37, 51), (16, 22))])
def test_frames_have_the_short_side_and_an_even_long_side(tmp_path, size, expected):
    frames = media_files.gray_frames([100] * 8, *size)
    path = media_files.write(tmp_path / "a.mkv", frames, 8, codec="ffv1")
    found = media.decode(path, MediaOptions(audio=False, short_side=16))
    image = simplejpeg.decode_jpeg(found.frames[0])
    assert image.shape == (expected[1], expected[0], 3)
    np.testing.assert_allclose(image, 100, atol=5)  # colors are rounded twice


def test_odd_short_side_is_refused():
    with pytest.raises(UserError, match="short_side is 97"):
        MediaOptions(short_side=97)


def test_decoding_is_deterministic(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (47, 83, 3), np.uint8) for _ in range(16)]
    path = media_files.write(tmp_path / "a.mkv", frames, 8, codec="ffv1")
    found = {media.decode(path, MediaOptions(audio=False)).frames for _ in range(4)}
    assert len(found) == 1


def test_colors_are_preserved(tmp_path):
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:, :32], frame[:, 32:] = (200, 40, 40), (40, 40, 200)
    path = media_files.write(tmp_path / "a.mkv", [frame] * 8, 8, codec="ffv1")
    image = simplejpeg.decode_jpeg(
        media.decode(path, MediaOptions(audio=False, short_side=32)).frames[0]
    )
    np.testing.assert_allclose(image[16, 4], (200, 40, 40), atol=8)
    np.testing.assert_allclose(image[16, -4], (40, 40, 200), atol=8)


def test_scaling_down_does_not_alias(tmp_path):
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    path = media_files.write(tmp_path / "a.mkv", [stripes] * 8, 8, codec="ffv1")
    image = simplejpeg.decode_jpeg(
        media.decode(path, MediaOptions(audio=False, short_side=32)).frames[0]
    )
    assert image[:, 2:-2].std() < 4  # libswscale blends a little less at the border


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_is_mean_of_channels(tmp_path, rate, channels):
    sound = media_files.tone(1.0, rate, channels=channels)
    sound[1:] = 0
    path = media_files.write(tmp_path / "a.wav", sound=sound, sample_rate=rate)
    waveform = media.decode(path, MediaOptions(video=False)).waveform
    expected = media_files.tone(1.0, 16000)[0] / channels
    assert waveform.shape == expected.shape
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform[800:-800], expected[800:-800], atol=2e-3)


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s24le", "pcm_f32le", "pcm_f64le"])
def test_every_sample_format_is_scaled_to_one(tmp_path, codec):
    sound = media_files.tone(0.5, 16000, channels=2)
    path = media_files.write(tmp_path / "a.wav", sound=sound, sample_rate=16000, sound_codec=codec)
    waveform = media.decode(path, MediaOptions(video=False)).waveform
    np.testing.assert_allclose(waveform, sound[0], atol=0.01 if codec == "pcm_u8" else 1e-4)


@pytest.mark.parametrize("when", [0.2, 1.7])
def test_samples_that_are_not_finite_are_damage(tmp_path, when):
    sound = media_files.tone(2.0, 16000)
    sound[0, round(when * 16000)] = np.nan
    path = media_files.write(
        tmp_path / "a.wav", sound=sound, sample_rate=16000, sound_codec="pcm_f32le"
    )
    assert _reason(path, MediaOptions(video=False)) == "damaged"


def _flash_and_click(path, sound_start=0.0, **kinds) -> str:
    frames = media_files.gray_frames([0] * 30 + [255] * 30)
    sound = np.zeros((1, 88200), np.float32)
    sound[0, 44100 - round(44100 * sound_start)] = 1
    return media_files.write(path, frames, sound=sound, sound_start=sound_start, **kinds)


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mov"])
@pytest.mark.parametrize("window", [(0, np.inf), (0.5, 1.5)])
def test_video_and_audio_stay_synchronous(tmp_path, name, window):
    found = media.decode(_flash_and_click(tmp_path / name), MediaOptions(), *window)
    flash = int(np.argmax(np.array(media_files.levels(found.frames)) > 128)) / 8
    click = int(np.argmax(np.abs(found.waveform))) / 16000
    assert flash == pytest.approx(1 - window[0])
    assert click == pytest.approx(1 - window[0], abs=2e-3)
    assert len(found.waveform) == round(len(found.frames) / 8 * 16000)
    assert (found.start, found.end) == (window[0], min(window[1], 2.0))


def test_late_sound_is_placed_by_its_time(tmp_path):
    path = _flash_and_click(tmp_path / "a.mkv", sound_start=0.4)
    waveform = media.decode(path, MediaOptions()).waveform
    assert int(np.argmax(np.abs(waveform))) == pytest.approx(16000, abs=32)
    assert not waveform[: int(0.39 * 16000)].any()


def test_sound_is_as_long_as_frames(tmp_path):
    frames = media_files.gray_frames([50] * 60)
    for seconds in (0.7, 3.1):
        sound = media_files.tone(seconds, 44100)
        path = media_files.write(tmp_path / f"{seconds}.mkv", frames, sound=sound)
        waveform = media.decode(path, MediaOptions()).waveform
        assert len(waveform) == 32000
        assert bool(waveform[-1000:].any()) == (seconds > 2)


def test_missing_stream_is_named(tmp_path):
    frames, sound = media_files.gray_frames([9] * 30), media_files.tone(1.0, 44100)
    silent = media_files.write(tmp_path / "silent.mp4", frames)
    sound_only = media_files.write(tmp_path / "sound_only.wav", sound=sound)
    assert _reason(silent) == "no audio"
    assert _reason(sound_only) == "no video"
    assert _reason(tmp_path / "absent.mp4") == "missing"
    assert _reason(tmp_path) == "unreadable"


def test_files_without_media_are_unreadable(tmp_path):
    whole = pathlib.Path(
        media_files.write(tmp_path / "whole.mp4", media_files.gray_frames([9] * 30))
    ).read_bytes()
    for name, content in {
        "empty.mp4": b"",
        "text.mp4": b"this is no video\n" * 100,
        "text.txt": b"a.mp4 cat\n" * 100,
        "garbage.mp4": np.random.default_rng(0).bytes(20000),
        "half.mp4": whole[: len(whole) // 2],
    }.items():
        (tmp_path / name).write_bytes(content)
        assert _reason(tmp_path / name, VIDEO_ONLY) in ("unreadable", "no video"), name


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
def test_title_that_is_not_utf_8_is_ignored(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        video = container.add_stream("mpeg4", rate=8)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for pixels in media_files.gray_frames([9] * 8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
    path.write_bytes(path.read_bytes().replace(b"TITLE", b"T\xe9\xffLE"))
    assert len(media.decode(str(path), VIDEO_ONLY).frames) == 8


def test_stream_without_frames_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        media_files.write_sound(container, audio, media_files.tone(1.0, 16000), 16000, 0.0)
    assert _reason(tmp_path / "a.mkv") == "no video"


def test_cover_picture_is_not_video(tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        picture = container.add_stream("mjpeg", rate=1)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux([*picture.encode(frame), *picture.encode()])
        media_files.write_sound(container, audio, media_files.tone(1.0, 16000), 16000, 0.0)
    assert _reason(tmp_path / "a.m4a") == "no video"


def test_video_below_min_seconds_is_left_out(tmp_path):
    path = media_files.write(tmp_path / "a.mkv", media_files.gray_frames([9] * 6), 30)
    assert _reason(path, VIDEO_ONLY) == "too short"
    assert len(media.decode(path, MediaOptions(audio=False, min_seconds=0.1)).frames) == 2


def test_frames_of_an_extreme_aspect_ratio_are_damage(tmp_path):
    frames = media_files.gray_frames([9] * 8, 400, 16)
    path = media_files.write(tmp_path / "a.mkv", frames, 8, codec="ffv1")
    assert _reason(path, VIDEO_ONLY) == "damaged"


def _damaged_in_the_middle(path) -> str:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(60)]
    media_files.write(path, frames, sound=media_files.tone(2.0, 44100))
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None]
    content = bytearray(pathlib.Path(path).read_bytes())
    where = content.index(bytes(packets[40])[:64])
    content[where : where + 200] = bytes(200)
    pathlib.Path(path).write_bytes(content)
    return str(path)


def test_damage_leaves_out_the_file_or_what_follows_the_damage(tmp_path):
    path = _damaged_in_the_middle(tmp_path / "a.mkv")
    assert _reason(path) == "damaged"
    found = media.decode(path, MediaOptions(keep_damaged=True))
    assert len(found.frames) == 11  # damaged from frame 40, at 1.33 s
    assert found.end == pytest.approx(11 / 8)
    assert len(found.waveform) == 22000


def test_default_one_of_several_streams_is_decoded(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for width, level in ((128, 30), (32, 200)):
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = width, width, "yuv420p"
            streams.append((stream, media_files.gray_frames([level] * 8, width, width)))
        streams[1][0].disposition = av.stream.Disposition.default
        for stream, frames in streams:
            for i, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    np.testing.assert_allclose(
        media_files.levels(media.decode(str(path), VIDEO_ONLY).frames), 200, atol=3
    )


@pytest.mark.skipif(not VIDEOS.exists(), reason="the real clips are not here")
def test_real_clips_have_known_lengths_and_faults():
    for name, frames in (("pancake.mkv", 83), ("00W1lcxW.mp4", 80), ("bbaf2n.mpg", 24)):
        found = media.decode(str(VIDEOS / name), MediaOptions())
        assert len(found.frames) == frames
        assert len(found.waveform) == frames * 2000
        assert min(simplejpeg.decode_jpeg(found.frames[-1]).shape[:2]) == 128
    assert _reason(VIDEOS / "mmaction_test.mp4") == "no audio"
    assert _reason(VIDEOS / "corrupted.mp4", VIDEO_ONLY) == "damaged"
    kept = media.decode(str(VIDEOS / "corrupted.mp4"), MediaOptions(audio=False, keep_damaged=True))
    assert len(kept.frames) == 23


def test_file_whose_video_begins_late_is_not_damaged(tmp_path):
    path = media_files.write(
        tmp_path / "a.mkv",
        media_files.gray_frames([60] * 56),
        times=[3 + i / 8 for i in range(56)],
        sound=media_files.tone(10.0, 16000),
        sample_rate=16000,
    )
    assert media.decode(path, MediaOptions()).end == 7


@pytest.mark.parametrize("content", ["whole", "garbage"])
@pytest.mark.parametrize("keep", [False, True])
def test_storage_error_is_not_damage(tmp_path, monkeypatch, content, keep):
    path = _damaged_in_the_middle(tmp_path / "a.mkv")
    if content == "garbage":
        pathlib.Path(path).write_bytes(np.random.default_rng(0).bytes(2000))
    stale = OSError(errno.ESTALE, "Stale file handle", path)
    monkeypatch.setattr("builtins.open", Mock(side_effect=stale))
    with pytest.raises(OSError, match="Stale file handle"):
        media.decode(path, MediaOptions(keep_damaged=keep))


def test_segment_after_the_end_of_audio_has_no_audio_whatever_its_video(tmp_path):
    """The video cannot be decoded after the seek, and the audio ends before it."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (16, 16, 3), np.uint8) for _ in range(48)]
    sound = media_files.tone(2.0, 16000)
    path = media_files.write(
        tmp_path / "a.mkv", frames, 8, sound=sound, sample_rate=16000, codec="mjpeg"
    )
    with av.open(path) as container:
        container.seek(int(3.5 * av.time_base))
        first = bytes(next(container.demux(video=0)))
    content = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(content.replace(first, bytes(len(first))))
    with pytest.raises(MediaError, match="its audio stream is empty from 4 s on"):
        media.decode(path, MediaOptions(), 4.0, 6.0)


def test_file_that_ends_before_its_stated_length_is_damaged(tmp_path):
    frames = media_files.gray_frames(range(250))
    path = media_files.write(tmp_path / "a.mkv", frames, sound=media_files.tone(250 / 30, 44100))
    assert media.decode(path, MediaOptions()).end == pytest.approx(250 / 30, abs=0.2)
    with open(path, "r+b") as file:
        file.truncate(pathlib.Path(path).stat().st_size // 2)
    with pytest.raises(MediaError, match=r"it ends at \d\.\d s of 8\.\d") as error:
        media.decode(path, MediaOptions())
    assert error.value.reason == "damaged"
    assert 2 < media.decode(path, MediaOptions(keep_damaged=True)).end < 7
    assert (
        media.decode(path, MediaOptions(), 0.0, 2.0).end == 2
    )  # the requested segment is complete


@pytest.mark.parametrize(
    "options, words",
    [
        (VIDEO_ONLY, r"damaged \(its time stamps go back"),
        (MediaOptions(video=False), r"damaged \(its audio time stamps go back"),
    ],
)
def test_time_stamps_that_go_back_are_damage(tmp_path, options, words):
    frames, sound = media_files.gray_frames([60] * 90), media_files.tone(3.0, 16000)
    path = media_files.write(
        tmp_path / "a.ts", frames, sound=sound, sample_rate=16000, sound_codec="aac"
    )
    pathlib.Path(path).write_bytes(2 * pathlib.Path(path).read_bytes())
    with pytest.raises(MediaError, match=words):
        media.decode(path, options)
