"""Opens a file of video and sound, so that ffmpeg can read no other file.

Python passes the bytes of the file to ffmpeg, which may not open any path: playlists (HLS, DASH,
ffconcat, SDP), image sequences and references of MP4 to other files have no effect.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

import av

from data_pipelines.build.damage import MediaError, Reason
from data_pipelines.build.frame_track import MOST_PIXELS, check_size
from data_pipelines.errors import is_transient

_QUIET = -8  # AV_LOG_QUIET
# Cover pictures, which are stored as video streams.
_PICTURE = av.stream.Disposition.attached_pic
_BUFFER = 1 << 16  # bytes that ffmpeg reads at a time
# No protocol has this name, so none is permitted.
_NO_PROTOCOL = "none"
# Formats with leading tags, which may mislead ffmpeg's detection of formats.
_BY_NAME = {".mp3": "mp3"}
# Marks of playlists, within the first bytes.
_PLAYLIST = re.compile(
    rb"\A(\xef\xbb\xbf)?\s*(#EXTM3U|ffconcat version|\[playlist\]|v=0\r?\n)"
    rb"|<MPD|<CompositionPlaylist|<smil|<asx",
    re.IGNORECASE,
)
_PLAYLIST_HEAD = 1024


class SourceFile:
    """The bytes of a file, for ffmpeg.

    Methods do not raise; `error` has the last failure, which ffmpeg treats as the end of the file.

    Attributes:
      name: the path, from whose suffix ffmpeg guesses a format.
      error: the last error of the file system.
    """

    def __init__(self, path: str):
        """Opens the file.

        Raises:
          OSError: the file can't be opened.
        """
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self.name = path
        self.error: OSError | None = None

    def read(self, count: int = -1) -> bytes:
        """Returns up to `count` bytes; none at the end or after an error."""
        try:
            return self._file.read(count) or b""
        except OSError as error:
            self.error = error
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a byte and returns its position; -1 if there is none.

        `offset` is in bytes, relative to `whence` (`os.SEEK_SET`, `SEEK_CUR` or `SEEK_END`).
        """
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -1

    def tell(self) -> int:
        """Returns the position of the next byte."""
        return self._file.tell()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[SourceFile, Any]]:
    """Yields a file and its PyAV container.

    Raises:
      MediaError: the file does not exist, or ffmpeg can't read it.
      OSError: the file system does not respond.
    """
    with contextlib.closing(_open_source(path)) as source:
        av.logging.set_libav_level(_QUIET)
        try:
            container = _open_container(source)
        except (av.error.FFmpegError, ValueError) as error:
            raise_unreachable(source)
            raise MediaError(path, "unreadable", _fault(source, error)) from None
        with container:
            if container.format.name == "tty":  # renders any text as video
                raise MediaError(path, "unreadable", "it is a text file")
            yield source, container


def raise_unreachable(source: SourceFile) -> None:
    """Raises a transient error of the file system that occurred while the file was read.

    Raises:
      OSError: there was such an error.
    """
    if source.error and is_transient(source.error):
        raise source.error


def _open_source(path: str) -> SourceFile:
    try:
        size = os.path.getsize(path)
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise MediaError(path, "unreadable", "it is not a regular file")
        source = SourceFile(path)
    except OSError as error:
        if is_transient(error):
            raise
        reason: Reason = "unreadable" if isinstance(error, PermissionError) else "missing"
        raise MediaError(path, reason, f"it can't be opened ({error.strerror})") from None
    if size == 0:
        source.close()
        raise MediaError(path, "unreadable", "it is empty")
    return source


def _open_container(source: SourceFile) -> Any:
    try:
        return _open_as(source, None)
    except av.error.FFmpegError:
        name = _BY_NAME.get(os.path.splitext(source.name)[1].lower())
        if name is None:
            raise
        return _open_as(source, name)


def _open_as(source: SourceFile, name: str | None) -> Any:
    keywords: dict[str, Any] = {
        "format": name,
        "buffer_size": _BUFFER,
        "container_options": {"protocol_whitelist": _NO_PROTOCOL},
        "options": {"max_pixels": str(MOST_PIXELS)},
    }
    source.seek(0)
    try:
        return av.open(source, **keywords)
    except UnicodeDecodeError:  # PyAV before 19: a title that is not UTF-8
        source.seek(0)
        keywords["metadata_errors"] = "replace"
        return av.open(source, **keywords)


def _fault(source: SourceFile, error: Exception) -> str:
    if source.error:
        return f"it can't be read ({source.error.strerror})"
    source.seek(0)
    if _PLAYLIST.search(source.read(_PLAYLIST_HEAD)):
        return "it is a playlist, whose files are not read"
    return f"ffmpeg can't read it as video or sound ({message_of(error)})"


def message_of(error: Exception) -> str:
    """Returns the message of an ffmpeg error, without its number and location."""
    return str(getattr(error, "strerror", None) or error)


def choose_streams(container: Any, path: str, video: bool, audio: bool) -> list[Any]:
    """Returns the requested video and audio streams, with open decoders.

    They are the choice of ffmpeg; if that stream can't be decoded, another one that can.

    Args:
      container: of PyAV, open for reading.
      path: of the file, for error messages.
      video: whether a video stream is requested.
      audio: whether an audio stream is requested.

    Raises:
      MediaError: a requested stream is missing or can't be decoded.
      UnfitError: the frames are too large.
    """
    wanted = (("video", video), ("audio", audio))
    return [_choose_stream(container, path, kind) for kind, is_wanted in wanted if is_wanted]


def _choose_stream(container: Any, path: str, kind: str) -> Any:
    fault: MediaError | None = None
    for stream in _candidates(container, kind):
        if stream.codec_context is None:
            codec = _codec_name(container, stream.index)
            detail = f"there is no decoder for its {kind} codec{codec}"
            fault = fault or MediaError(path, "unsupported", detail)
            continue
        if kind == "video":
            check_size(stream.codec_context.width, stream.codec_context.height)
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        stream.codec_context.thread_count = 1
        try:
            stream.codec_context.open(strict=False)
        except av.error.FFmpegError as error:
            detail = f"its {kind} can't be decoded ({message_of(error)})"
            fault = fault or MediaError(path, "damaged", detail)
            continue
        return stream
    reason: Reason = "no video" if kind == "video" else "no audio"
    raise fault or MediaError(path, reason, f"it has no {kind} stream")


def _candidates(container: Any, kind: str) -> list[Any]:
    """Returns the streams of a kind: ffmpeg's choice first, then those marked as default."""
    best = container.streams.best(kind)  # None if no parameters are known
    default = av.stream.Disposition.default
    streams = [s for s in getattr(container.streams, kind) if not s.disposition & _PICTURE]
    return sorted(streams, key=lambda s: (s is not best, not s.disposition & default))


def _codec_name(container: Any, index: int) -> str:
    """Returns the name and tag of a stream's codec for a message.

    For a codec without a decoder, only the text of `dumps_format` has them.
    """
    av.logging.set_level(av.logging.INFO)
    text = container.dumps_format()
    av.logging.set_level(None)
    av.logging.set_libav_level(_QUIET)
    found = re.search(rf"Stream #0:{index}\b.*?: (?:Audio|Video): ([^,\n]+)", text)
    return f" {found[1].strip()}" if found else ""
