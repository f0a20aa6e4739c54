import pathlib

import numpy as np
import pytest
import threadpoolctl

from data_pipelines.format import kaldi
from data_pipelines.format.log_mel import log_mel
from data_pipelines.format.record_schema import LOG_MEL_FLOOR

GOLDEN = pathlib.Path(__file__).parents[3] / "shared" / "golden" / "log_mel.npz"


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden spectrograms are not here")
def test_equals_golden_spectrograms():
    golden = np.load(GOLDEN)
    names = {key.split("/")[0] for key in golden}
    assert names
    for name in names:
        waveform = golden[f"{name}/waveform"] / 32768
        for key, samples in (("log_mel", waveform), ("log_mel_local", waveform[8000:24000])):
            found = (log_mel(samples) + 5.3688107) / 4.410007
            assert found.shape == golden[f"{name}/{key}"].shape
            np.testing.assert_allclose(found, golden[f"{name}/{key}"], atol=1e-3)


def _direct(waveform, fft=1024, hop=143):
    """Power spectrum of each column, from the definition."""
    padded = np.pad(waveform, fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft) / fft)
    columns = [padded[i * hop : i * hop + fft] for i in range(1 + len(waveform) // hop)]
    return np.abs(np.fft.rfft(np.array(columns) * window, axis=1).T) ** 2


def _slaney_filters(sample_rate=16000, fft=1024, mels=80):
    """Triangles of unit area: linear below 1 kHz, then 27 bands per factor of 6.4."""

    def hertz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))

    top = 15 + 27 * np.log(sample_rate / 2 / 1000) / np.log(6.4)
    edges = hertz(np.linspace(0, top, mels + 2))
    bins = np.linspace(0, sample_rate / 2, fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (edges[2:] - edges[:-2]))[:, None]


@pytest.mark.parametrize("samples", [1, 2, 100, 512, 513, 1024, 5000])
def test_equals_definition(samples):
    waveform = np.random.default_rng(samples).normal(0, 0.1, samples)
    expected = np.log(_slaney_filters() @ _direct(waveform) + 2.0**-23)
    assert expected.shape == (80, 1 + samples // 143)
    np.testing.assert_allclose(log_mel(waveform), expected, atol=1e-3)


def test_silence_is_floor():
    np.testing.assert_allclose(log_mel(np.zeros(64000)), np.full((80, 448), LOG_MEL_FLOOR))


def test_no_samples_give_no_columns():
    assert log_mel(np.zeros(0)).shape == (80, 0)


def test_long_file_equals_its_parts():
    waveform = np.random.default_rng(0).normal(0, 0.1, 143 * 5000).astype(np.float32)
    whole = log_mel(waveform)
    part = log_mel(waveform[143 * 4000 :])
    assert whole.shape[1] == 5001
    np.testing.assert_allclose(whole[:, 4010:], part[:, 10:], atol=1e-4)


@pytest.mark.parametrize("spectrogram", [log_mel, kaldi.filter_bank])
def test_numbers_do_not_depend_on_the_threads_of_the_process(spectrogram):
    wave = np.random.default_rng(0).normal(0, 0.1, 64000)
    found = []
    for threads in (1, 2, 7):
        with threadpoolctl.threadpool_limits(threads):
            found.append(spectrogram(wave, mels=16))
    np.testing.assert_array_equal(found[1:], found[:1] * 2)
