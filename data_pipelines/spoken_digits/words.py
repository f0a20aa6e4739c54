"""The spoken names of the digits: synthesized in many voices, or recordings of people."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import soundfile

from data_pipelines.build.catalogs.spoken_recordings import FILE, NAMES
from data_pipelines.errors import UserError
from data_pipelines.format.librosa_import import import_librosa
from data_pipelines.spoken_digits import espeak
from data_pipelines.spoken_digits.handwriting import Split

# For each digit, the waveforms of its name: float32 [samples], peak 1, trimmed of silence.
Words = list[list[np.ndarray]]

UTTERANCES = {"train": 120, "test": 50}  # of each digit
ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland")
# Variants of espeak-ng that resemble human voices; the splits have no speaker in common.
SPEAKERS = {
    "train": (
        *("f1", "f2", "f5", "m1", "m2", "m4", "m5", "Andy", "Annie", "Denis", "Jacky", "Lee"),
        *("Mario", "Michael", "anika", "belinda", "david", "ian", "john", "linda", "max", "steph"),
    ),
    "test": ("f3", "f4", "m3", "m7", "m8", "Alicia", "robert", "shelby", "victor", "zac"),
}
RATE = (150, 190)  # words per minute
PITCH = (40, 60)  # in 0..100
_SILENCE = 0.02  # fraction of the peak


def synthesize(split: Split, sample_rate: int, seed: int) -> Words:
    """Returns words spoken by espeak-ng in random voices, accents, rates and pitches.

    Args:
      split: `train` or `test`, which have different voices.
      sample_rate: of the result, in Hz.
      seed: of the random choices.

    Raises:
      UserError: espeak-ng does not run.
    """
    rng = np.random.default_rng([seed, *split.encode()])
    requests = [
        (
            name,
            f"{rng.choice(ACCENTS)}+{rng.choice(SPEAKERS[split])}",
            int(rng.integers(RATE[0], RATE[1] + 1)),
            int(rng.integers(PITCH[0], PITCH[1] + 1)),
        )
        for name in NAMES
        for _ in range(UTTERANCES[split])
    ]
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "spoken.npz"
        command = [sys.executable, espeak.__file__, str(output)]
        done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise UserError(
                f"espeak-ng failed ({reason[0]}): reinstall espeakng-loader,"
                " or give recordings with data.speech_dir."
            )
        with np.load(output) as spoken:
            rate = int(spoken["sample_rate"])
            waveforms = [
                _clean(spoken[str(i)].astype(np.float32), rate, sample_rate)
                for i in range(len(requests))
            ]
    count = UTTERANCES[split]
    return [waveforms[label * count : (label + 1) * count] for label in range(10)]


def read(folder: pathlib.Path, split: Split, sample_rate: int) -> Words:
    """Reads recordings `{digit}_{speaker}_{index}.wav`; the last third of the speakers is `test`.

    Raises:
      UserError: the folder or a digit is missing, or a file can't be read.
    """
    if not folder.is_dir():
        raise UserError(
            f"data.speech_dir {folder} is not a folder: give one of {{digit}}_{{speaker}}_{{index}}"
            ".wav files, or leave it empty to use synthetic voices."
        )
    found = [m for f in sorted(folder.glob("*.wav")) if (m := FILE.fullmatch(f.name))]
    speakers = sorted({match["speaker"] for match in found})
    held_out = set(speakers[-max(1, len(speakers) // 3) :])
    words: Words = [[] for _ in NAMES]
    for match in found:
        if (match["speaker"] in held_out) == (split == "test"):
            words[int(match["digit"])].append(_read_one(folder / match.string, sample_rate))
    for label, waveforms in enumerate(words):
        if not waveforms:
            raise UserError(
                f"data.speech_dir {folder} has no {label}_{{speaker}}_{{index}}.wav for the {split}"
                f" split (speakers: {', '.join(speakers) or 'none'}): record every digit by at"
                " least two speakers."
            )
    return words


def _read_one(path: pathlib.Path, sample_rate: int) -> np.ndarray:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{path} cannot be read as sound ({error}): replace or remove it."
        ) from None
    waveform = _clean(samples.mean(axis=1), rate, sample_rate)
    if not len(waveform):
        raise UserError(f"{path} has no sound: replace or remove it.")
    return waveform


def _clean(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Resamples, trims silence at both ends, and scales the peak to 1."""
    if rate != sample_rate:
        samples = import_librosa().resample(samples, orig_sr=rate, target_sr=sample_rate)
    peak = np.abs(samples).max(initial=0)
    loud = np.flatnonzero(np.abs(samples) > _SILENCE * peak)
    return samples[loud[0] : loud[-1] + 1] / peak if len(loud) else samples[:0]
