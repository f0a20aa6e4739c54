"""Packets of a file to frames, passing over what players pass over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import av

from data_pipelines.build.damage import DamageError
from data_pipelines.build.media_file import words

# Formats of sound without a container, whose packets are found by their first bytes: tags and
# rubbish in between become packets too. Their time stamps are ffmpeg's guesses.
BYTE_STREAMS = frozenset(
    ("mp3", "aac", "loas", "ac3", "eac3", "dts", "dtshd", "mlp", "truehd", "flac", "tta", "wv")
)
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
# Bytes between frames that can't be decoded mean damage beyond this share of those so far, the
# first ones taken together.
_MOST_UNDECODABLE = 0.05
_FIRST_BYTES = 1 << 15


def decode_packets(
    container: Any, streams: list[Any], skipped: dict[str, str]
) -> Iterator[av.VideoFrame | av.AudioFrame | av.Packet]:
    """Yields the frames of the streams as they come, and the empty packets that repeat a frame.

    What can't be decoded before a stream's first frame is passed over: streams that were cut out of
    longer ones often begin so. In sound without a container, tags and what follows the last frame
    are passed over too.

    Args:
      container: PyAV's.
      streams: those that are wanted.
      skipped: gets {video or audio: why packets before its first frame were passed over}.

    Raises:
      DamageError: too much of a sound file without a container can't be decoded.
      av.error.FFmpegError: a packet can't be decoded, or no more can be read.
    """
    begun: set[str] = set()
    byte_stream = _ByteStream() if container.format.name in BYTE_STREAMS else None
    for packet in _demux(container, streams):
        kind = packet.stream.type
        if not packet.size:  # a decoder would take it for the end
            yield packet
            continue
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if kind not in begun:
                skipped[kind] = words(error)
            elif byte_stream:
                byte_stream.pass_over(packet, error)
            else:
                raise
            continue
        if frames:
            begun.add(kind)
            if byte_stream:
                byte_stream.check(packet)
        yield from frames
    for stream in streams:
        end: Any = av.Packet()
        end.stream, end.time_base = stream, stream.time_base
        yield from end.decode()


def _demux(container: Any, streams: list[Any]) -> Iterator[av.Packet]:
    """Yields the packets of the streams, and at the end empty ones without a time."""
    with contextlib.suppress(IndexError):  # PyAV 18, at the end, where other streams appeared late
        yield from container.demux(streams)


class _ByteStream:
    """Counts the bytes of a byte stream that can't be decoded."""

    def __init__(self) -> None:
        self._bytes = self._undecodable = 0
        self._latest = 0  # of the undecodable ones, those after the last frame
        self._error = ""

    def pass_over(self, packet: av.Packet, error: av.error.FFmpegError) -> None:
        """Takes a packet that can't be decoded."""
        content = bytes(packet).lstrip(b"\0")
        if content and not content.startswith(_TAGS):
            self._latest += packet.size
            self._error = words(error)

    def check(self, packet: av.Packet) -> None:
        """Takes one that was decoded.

        Raises:
          DamageError: too much before it was not.
        """
        self._undecodable += self._latest
        self._bytes += self._latest + packet.size
        self._latest = 0
        if self._undecodable > _MOST_UNDECODABLE * max(self._bytes, _FIRST_BYTES):
            raise DamageError(
                f"{self._undecodable} bytes of its sound can't be decoded: {self._error}"
            )
