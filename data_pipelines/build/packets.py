"""Decodes the packets of a file to frames, and skips undecodable packets as players do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import av

from data_pipelines.build.damage import DamageError
from data_pipelines.build.media_file import message_of

# Formats of sound without a container. ffmpeg finds packets by their first bytes, so tags and other
# bytes in between become packets too, and it guesses time stamps.
BYTE_STREAMS = frozenset(
    ("mp3", "aac", "loas", "ac3", "eac3", "dts", "dtshd", "mlp", "truehd", "flac", "tta", "wv")
)
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
# Undecodable bytes between frames mean damage if they exceed this fraction of the bytes so far, of
# which at least `_FIRST_BYTES` are assumed.
_MOST_UNDECODABLE = 0.05
_FIRST_BYTES = 1 << 15


def decode_packets(
    container: Any, streams: list[Any], skipped: dict[str, str]
) -> Iterator[av.VideoFrame | av.AudioFrame | av.Packet]:
    """Yields the frames of the streams in order, and empty packets, which repeat a frame.

    Undecodable packets before a stream's first frame are skipped, as streams that were cut out of
    longer ones often begin with such packets. In sound without a container, tags and bytes after
    the last frame are skipped too.

    Args:
      container: of PyAV, open for reading.
      streams: the streams to decode.
      skipped: receives {"video" or "audio": error of packets skipped before its first frame}.

    Raises:
      DamageError: too many bytes of a sound file without a container are undecodable.
      av.error.FFmpegError: a packet can't be decoded or read.
    """
    started: set[str] = set()
    byte_stream = _ByteStream() if container.format.name in BYTE_STREAMS else None
    for packet in _demux(container, streams):
        kind = packet.stream.type
        if not packet.size:  # a decoder would treat it as the end
            yield packet
            continue
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if kind not in started:
                skipped[kind] = message_of(error)
            elif byte_stream:
                byte_stream.skip(packet, error)
            else:
                raise
            continue
        if frames:
            started.add(kind)
            if byte_stream:
                byte_stream.check(packet)
        yield from frames
    for stream in streams:
        end: Any = av.Packet()
        end.stream, end.time_base = stream, stream.time_base
        yield from end.decode()


def _demux(container: Any, streams: list[Any]) -> Iterator[av.Packet]:
    """Yields the packets of the streams, and at the end empty packets without a time."""
    with contextlib.suppress(IndexError):  # PyAV 18, at the end, if other streams appear late
        yield from container.demux(streams)


class _ByteStream:
    """Counts the undecodable bytes of a byte stream."""

    def __init__(self) -> None:
        self._bytes = self._undecodable = 0
        self._latest = 0  # undecodable bytes after the last frame
        self._error = ""

    def skip(self, packet: av.Packet, error: av.error.FFmpegError) -> None:
        """Counts an undecodable packet."""
        content = bytes(packet).lstrip(b"\0")
        if content and not content.startswith(_TAGS):
            self._latest += packet.size
            self._error = message_of(error)

    def check(self, packet: av.Packet) -> None:
        """Counts a decoded packet.

        Raises:
          DamageError: too many bytes before it were undecodable.
        """
        self._undecodable += self._latest
        self._bytes += self._latest + packet.size
        self._latest = 0
        if self._undecodable > _MOST_UNDECODABLE * max(self._bytes, _FIRST_BYTES):
            raise DamageError(
                f"{self._undecodable} bytes of its sound can't be decoded: {self._error}"
            )
