"""The model of trained encoders: tokens and features of arrays and files."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.errors import UserError
from data_pipelines.loader_config import AudioConfig, DataConfig, Modality
from xkd_jax.config.architecture import ComputeDtype
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.inference import spectrograms
from xkd_jax.inference.formats.format import EncoderWeights
from xkd_jax.inference.loaded import Loaded, Origin, tensors
from xkd_jax.inference.programs import (
    encoding_program,
    identity,
    normalized_spectrogram,
    squares,
)
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel import mesh as mesh_lib

if TYPE_CHECKING:
    from xkd_jax.inference.embedding import Features
    from xkd_jax.inference.reconstruction import Reconstruction

# A batch of a base model then takes less than a gigabyte on a CPU.
BATCH_SIZE = 8


class Encoding(NamedTuple):
    """Outputs of an encoder for a batch, float32.

    Attributes:
      tokens: [batch, patches, width], in the order (time, height, width) or (mel, time).
      cls: [batch, width], the CLS token; None: the encoder has none.
      pooled: [batch, width], features of each input as the encoder's authors pool them.
    """

    tokens: np.ndarray
    cls: np.ndarray | None
    pooled: np.ndarray


class Model:
    """Encoders of one or two modalities; made by `xkd_jax.load`."""

    def __init__(
        self,
        encoders: Mapping[Modality, EncoderWeights],
        origin: Origin,
        *,
        compute_dtype: ComputeDtype = "float32",
        short_side: int = DataConfig().short_side,
    ):
        """Puts the weights on every local device.

        Args:
          encoders: by modality.
          origin: of the weights.
          compute_dtype: float32 or bfloat16.
          short_side: of frames in pixels, which files are decoded to.
        """
        self.config: dict[Modality, EncoderConfig] = {m: w.config for m, w in encoders.items()}
        self.origin = origin
        self.compute_dtype = compute_dtype
        self.short_side = short_side
        self.decoders = {m: w.decoder for m, w in encoders.items() if w.decoder is not None}
        self.mesh = mesh_lib.make_mesh(MeshConfig(), jax.local_devices())
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.parameters: dict[Modality, Tree] = {
            m: jax.device_put(w.params, everywhere) for m, w in encoders.items()
        }

    @classmethod
    def of(cls, found: Loaded) -> Model:
        """Returns the model of loaded encoders."""
        return cls(
            found.encoders,
            found.origin,
            compute_dtype=found.compute_dtype,
            short_side=found.short_side,
        )

    @property
    def license(self) -> str:
        """License of the weights; empty: the run's owner decides."""
        return self.origin.license

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities of the encoders."""
        return tuple(self.config)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the encoders' configs and weights; equal digests give equal features."""
        return Loaded(self._encoders(), self.origin).digest

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns {`MODALITY.` and a name of `tensor_names`: float32 array}."""
        return tensors(self._encoders())

    def _encoders(self) -> dict[Modality, EncoderWeights]:
        return {m: EncoderWeights(self.config[m], self.parameters[m]) for m in self.config}

    def encode_video(self, frames: Any, *, normalized: bool = False) -> Encoding:
        """Encodes clips.

        Args:
          frames: uint8 [batch, time, height, width, 3] of any size, at the encoder's frame rate;
            their central square is resized to the size that the encoder was trained with.
          normalized: whether `frames` are normalized float32, of any size that is a multiple of the
            patch.

        Raises:
          UserError: there is no encoder of video, or the frames are of another shape or dtype.
        """
        config = self._encoder_config("video")
        frames = np.asarray(frames)
        dtype = np.float32 if normalized else np.uint8
        if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != dtype:
            raise UserError(
                f"frames are {frames.dtype} {frames.shape}: give {np.dtype(dtype)} [batch, time,"
                " height, width, 3]" + ("." if normalized else ", or float32 with normalized=True.")
            )
        if normalized:
            _check_patches("frames", frames.shape[1:4], config)
            return self._encode("video", frames, identity)
        _check_patches("frames", (frames.shape[1], *config.view.global_shape[1:]), config)
        return self._encode("video", frames, squares)

    def encode_audio(
        self,
        samples: Any = None,
        sample_rate: int | None = None,
        *,
        log_mel: Any = None,
    ) -> Encoding:
        """Encodes waveforms or spectrograms.

        Args:
          samples: float [batch, samples], full scale at 1; shorter ones than the encoder's clip
            are followed by silence, and longer ones are encoded as a whole, with positions
            interpolated.
          sample_rate: of the samples, in Hz.
          log_mel: in place of samples: normalized spectrograms, float32 [batch, mel, time].

        Raises:
          UserError: there is no encoder of audio, or the sound is of another shape or dtype.
        """
        config = self._encoder_config("audio")
        if log_mel is not None:
            view = np.asarray(log_mel)
            mels = config.view.global_shape[0]
            if view.ndim != 3 or view.shape[1] != mels or view.dtype != np.float32:
                raise UserError(
                    f"log_mel is {view.dtype} {view.shape}: give float32 [batch, {mels}, time]."
                )
            _check_patches("log_mel", view.shape[1:], config)
            return self._encode("audio", view, identity)
        if samples is None or sample_rate is None:
            raise UserError("encode_audio needs samples with sample_rate, or log_mel: give them.")
        samples = np.asarray(samples)
        if samples.ndim != 2 or samples.dtype.kind != "f":
            raise UserError(
                f"samples are {samples.dtype} {samples.shape}: give floats [batch, samples] of full"
                " scale 1."
            )
        return self._encode(
            "audio", self._spectrograms(samples, sample_rate), normalized_spectrogram
        )

    def embed(self, source: str, **options: Any) -> Features:
        """Features of the windows of a file of video or sound; see `windows.EmbedOptions`.

        Raises:
          UserError: the file can't be used.
        """
        from xkd_jax.inference import embedding, windows

        return embedding.embed(self, source, windows.EmbedOptions(**options))

    def embed_files(
        self,
        sources: Iterable[str],
        *,
        left_out: Callable[[str, str, str], None] | None = None,
        **options: Any,
    ) -> Iterator[tuple[str, Features]]:
        """Yields each file with its features.

        Args:
          sources: paths or URLs.
          left_out: is called with path, reason and detail for each file that can't be used; None:
            the first such file is an error.
          **options: see `windows.EmbedOptions`.

        Raises:
          UserError: a file can't be used.
        """
        from xkd_jax.inference import embedding, windows

        chosen = windows.EmbedOptions(**options)
        yield from embedding.embed_files(self, sources, chosen, left_out)

    def reconstruct(self, source: str, *, seed: int = 0) -> Reconstruction:
        """Masks the first clip of a file and predicts the masked patches, as images.

        Args:
          source: path or URL.
          seed: seed of the masks.

        Raises:
          UserError: the file can't be used, or the model has no decoders.
        """
        from xkd_jax.inference import reconstruction

        return reconstruction.reconstruct(self, source, seed)

    def _encoder_config(self, modality: Modality) -> EncoderConfig:
        if modality not in self.config:
            raise UserError(
                f"{self.origin} has no encoder of {modality}: load weights that have one."
            )
        return self.config[modality]

    def _spectrograms(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        config = self._encoder_config("audio")
        view = config.view
        assert isinstance(view, AudioConfig)
        found = [
            spectrograms.spectrogram(
                view, spectrograms.resampled(row, sample_rate, view.sample_rate)
            )
            for row in samples
        ]
        longest = max(view.columns, *(part.shape[1] for part in found))
        step = view.patch[1]
        # beyond whole patches there is one column, whose center is the last sample
        columns = view.columns if longest <= view.columns else longest // step * step
        return np.stack([spectrograms.padded(view, part, columns) for part in found])

    def _encode(
        self, modality: Modality, views: np.ndarray, prepare: Callable[..., jax.Array]
    ) -> Encoding:
        if not len(views):
            raise UserError("The batch is empty: give at least one input.")
        parts = [
            jax.tree.map(np.asarray, self.run(modality, rows, prepare, tokens=True))
            for rows in np.split(views, range(BATCH_SIZE, len(views), BATCH_SIZE))
        ]
        tokens, pooled = (np.concatenate(found) for found in zip(*parts, strict=True))
        special = self.config[modality].special_tokens
        return Encoding(tokens[:, special:], tokens[:, 0] if special else None, pooled)

    def run(
        self,
        modality: Modality,
        rows: Any,
        prepare: Callable[[EncoderConfig, Any], jax.Array],
        *,
        tokens: bool = False,
        batch_size: int = 0,
    ) -> Any:
        """Encodes one batch over all local devices; float32, still on the devices.

        Args:
          modality: of the encoder.
          rows: arrays with a leading axis of samples.
          prepare: makes the normalized view of them, on the device.
          tokens: whether the result is (tokens, pooled), and not `pooled` alone.
          batch_size: largest number of rows; a smaller batch is filled up to a power of two, so
            that few programs are compiled. 0: it is not filled up.
        """
        count = len(jax.tree.leaves(rows)[0])
        devices = math.prod(self.mesh.devices.shape)
        filled = min(1 << (count - 1).bit_length(), batch_size)
        size = -(-max(count, filled) // devices) * devices

        def padded(rows: np.ndarray) -> np.ndarray:
            return np.pad(rows, [(0, size - count)] + [(0, 0)] * (rows.ndim - 1))

        placed = mesh_lib.batch_sharding(self.mesh, size)
        batch = mesh_lib.put_batch(jax.tree.map(padded, rows), placed, size)
        config = self.config[modality]
        program = encoding_program(config, self.compute_dtype, prepare, tokens, self.mesh)
        found = program(self.parameters[modality], batch)
        return jax.tree.map(lambda a: a[:count], found)


def _check_patches(what: str, shape: tuple[int, ...], config: EncoderConfig) -> None:
    patch = config.view.patch
    for size, side in zip(shape, patch, strict=True):
        if size < side or (config.stride is None and size % side):
            raise UserError(
                f"{what} have the sides {shape}: give multiples of the patch's, {patch}."
            )
