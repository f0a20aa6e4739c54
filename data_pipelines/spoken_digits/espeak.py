"""Synthesizes words with espeak-ng, as a program: one process for one list of utterances.

`python espeak.py OUTPUT.npz < REQUESTS.json` with requests `[[word, voice, rate, pitch], ...]`
writes their waveforms, int16, under the names 0, 1, ... and their sample rate, in hertz, under
`sample_rate`.

It runs in a separate process because espeak-ng keeps state between utterances (the phase of its
oscillators, its random numbers): equal lists give equal samples only in a new process.
"""

from __future__ import annotations

import ctypes
import json
import pathlib
import sys
import tempfile

import espeakng_loader
import numpy as np

# Of speak_lib.h.
_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_RATE, _PITCH = 1, 3
_POSITION_CHARACTER, _UTF8 = 1, 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Speaker:
    """The synthesizer; `data` is the folder that contains `espeak-ng-data`."""

    def __init__(self, data: pathlib.Path) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_Synth.argtypes = (
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint),
            *(ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
        )
        folder = str(data / "espeak-ng-data").encode()
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, folder, _DONT_EXIT)
        if self.sample_rate <= 0:
            sys.exit(f"espeak-ng cannot read its voices in {espeakng_loader.get_data_path()}.")
        self._chunks: list[np.ndarray] = []
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)

    def synthesize(self, word: str, voice: str, rate: int, pitch: int) -> np.ndarray:
        """Returns the waveform of a word, int16 [samples].

        Args:
          word: in UTF-8.
          voice: name of the voice.
          rate: words per minute.
          pitch: 0 to 100.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            sys.exit(f"espeak-ng has no voice {voice}.")
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks = []
        text = word.encode() + b"\0"
        self._library.espeak_Synth(text, len(text), 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
        return np.concatenate(self._chunks)

    def _receive(self, samples: ctypes._Pointer, count: int, events: int | None) -> int:
        if samples and count:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def main() -> None:
    """Reads the requests, synthesizes them in order and writes the file."""
    # espeak-ng truncates the folder's path at 160 characters, so pass it a short one.
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder)
        (data / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
        speaker = Speaker(data)
        spoken = [speaker.synthesize(*request) for request in json.load(sys.stdin)]
    arrays = {str(i): waveform for i, waveform in enumerate(spoken)}
    np.savez(sys.argv[1], sample_rate=speaker.sample_rate, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
