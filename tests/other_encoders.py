"""Encoders of other projects: tensors under their names, and outputs of the original code.

Each follows the conventions of its code, with convolutions for patches and PyTorch's layouts,
independently of our encoder.
"""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import torch_files
from numpy_encoder import gelu

import xkd_jax

WIDTH, HEADS, DEPTH, HIDDEN = 8, 2, 2, 12


@dataclasses.dataclass
class Case:
    """A file: its tensors, the values that must be given, an input of the network in our order of
    axes, and the tokens and pooled features that it outputs, also in our order."""

    tensors: dict[str, np.ndarray]
    modality: str
    view: np.ndarray
    tokens: np.ndarray
    pooled: np.ndarray
    given: dict[str, Any]
    config: dict[str, Any] | None = None
    taken: int = 0


class Draw:
    """Random tensors, none near zeros or ones."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.tensors = {}

    def __call__(self, name, *shape):
        """A tensor: a new one, or that of the name."""
        if name in self.tensors:
            return self.tensors[name].astype(np.float64)
        value = self.rng.normal(0, 0.3, shape).astype(np.float32)
        self.tensors[name] = value + np.float32(name.endswith("norm.weight"))
        return self.tensors[name].astype(np.float64)

    def linear(self, name, outputs, inputs):
        weight, bias = self(f"{name}.weight", outputs, inputs), self(f"{name}.bias", outputs)
        return lambda x: x @ weight.T + bias

    def norm(self, name, eps):
        weight, bias = self(f"{name}.weight", WIDTH), self(f"{name}.bias", WIDTH)

        def apply(x):
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
            return x * weight + bias

        return apply


def attend(q, k, v):
    """Attention of [tokens, width] each, by heads."""
    q, k, v = (a.reshape(len(a), HEADS, -1).swapaxes(0, 1) for a in (q, k, v))
    scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    return mixed.swapaxes(0, 1).reshape(q.shape[1], -1)


def convolved(x, kernel, bias, stride):
    """Patches of [channels, ...] by a convolution: [patches..., width]."""
    sides = kernel.shape[2:]
    counts = [(n - p) // s + 1 for n, p, s in zip(x.shape[1:], sides, stride, strict=True)]
    out = np.empty((*counts, WIDTH))
    for place in np.ndindex(*counts):
        box = tuple(slice(i * s, i * s + p) for i, p, s in zip(place, sides, stride, strict=True))
        out[place] = (kernel * x[(None, slice(None), *box)]).reshape(WIDTH, -1).sum(1) + bias
    return out


def block(draw, name, eps, *, split_bias=False, norms=("norm1", "norm2")):
    """A block of timm's ViT: x [tokens, width] -> the same."""
    norm1 = draw.norm(f"{name}.{norms[0]}", eps)
    qkv = draw(f"{name}.attn.qkv.weight", 3 * WIDTH, WIDTH)
    if split_bias:
        q, v = draw(f"{name}.attn.q_bias", WIDTH), draw(f"{name}.attn.v_bias", WIDTH)
        bias = np.concatenate([q, 0 * q, v])
    else:
        bias = draw(f"{name}.attn.qkv.bias", 3 * WIDTH)
    proj = draw.linear(f"{name}.attn.proj", WIDTH, WIDTH)
    norm2 = draw.norm(f"{name}.{norms[1]}", eps)
    fc1 = draw.linear(f"{name}.mlp.fc1", HIDDEN, WIDTH)
    fc2 = draw.linear(f"{name}.mlp.fc2", WIDTH, HIDDEN)

    def apply(x):
        x = x + proj(attend(*np.split(norm1(x) @ qkv.T + bias, 3, -1)))
        return x + fc2(gelu(fc1(norm2(x))))

    return apply


def layer(draw, name, eps, biases):
    """A layer of transformers' ViTs; `biases` names those of query, key and value."""
    attention = f"{name}.attention.attention"
    weights = [draw(f"{attention}.{n}.weight", WIDTH, WIDTH) for n in ("query", "key", "value")]
    added = [draw(f"{attention}.{n}", WIDTH) if n else np.zeros(WIDTH) for n in biases]
    proj = draw.linear(f"{name}.attention.output.dense", WIDTH, WIDTH)
    norm1 = draw.norm(f"{name}.layernorm_before", eps)
    norm2 = draw.norm(f"{name}.layernorm_after", eps)
    fc1 = draw.linear(f"{name}.intermediate.dense", HIDDEN, WIDTH)
    fc2 = draw.linear(f"{name}.output.dense", WIDTH, HIDDEN)

    def apply(x):
        normed = norm1(x)
        x = x + proj(attend(*(normed @ w.T + b for w, b in zip(weights, added, strict=True))))
        return x + fc2(gelu(fc1(norm2(x))))

    return apply


def sinusoids(tokens):
    table = np.zeros((tokens, WIDTH), np.float32)
    for n in range(tokens):
        for i in range(0, WIDTH, 2):
            table[n, i] = math.sin(n / 10000 ** (i / WIDTH))
            table[n, i + 1] = math.cos(n / 10000 ** (i / WIDTH))
    return table


def through(blocks, x):
    for apply in blocks:
        x = apply(x)
    return x


def video(draw):
    """One clip [frames, height, width, color] of 4 frames of 8 pixels."""
    return draw.rng.normal(size=(4, 8, 8, 3)).astype(np.float32)


def videomae_tokens(draw, name, clip, patch=(2, 4, 4)):
    kernel = draw(f"{name}.weight", WIDTH, 3, *patch)
    patches = convolved(clip.transpose(3, 0, 1, 2), kernel, draw(f"{name}.bias", WIDTH), patch)
    patches = patches.reshape(-1, WIDTH)
    return patches + sinusoids(len(patches))


SIZES = {"video": {"frames": 4, "size": 8}, "heads": HEADS}


def videomae_pretrain():
    draw = Draw(1)
    clip = video(draw)
    x = videomae_tokens(draw, "encoder.patch_embed.proj", clip)
    names = [f"encoder.blocks.{i}" for i in range(DEPTH)]
    x = through([block(draw, name, 1e-6, split_bias=True) for name in names], x)
    x = draw.norm("encoder.norm", 1e-6)(x)
    taken = len(draw.tensors)
    draw("encoder_to_decoder.weight", 4, WIDTH), draw("mask_token", 1, 1, 4)
    draw("decoder.blocks.0.norm1.weight", 4)
    return Case(draw.tensors, "video", clip, x, x.mean(0), SIZES, taken=taken)


def videomae_finetune():
    draw = Draw(2)
    clip = video(draw)
    x = videomae_tokens(draw, "patch_embed.proj", clip)
    x = through([block(draw, f"blocks.{i}", 1e-6, split_bias=True) for i in range(DEPTH)], x)
    pooled = draw.norm("fc_norm", 1e-6)(x.mean(0))
    taken = len(draw.tensors)
    draw.linear("head", 5, WIDTH)
    return Case(draw.tensors, "video", clip, x, pooled, SIZES, taken=taken)


def videomae_transformers(*, new_names=False, classification=False):
    draw = Draw(3)
    clip = video(draw)
    prefix = "videomae." if classification else ""
    biases = ("query.bias", None, "value.bias") if new_names else ("q_bias", None, "v_bias")
    x = videomae_tokens(draw, f"{prefix}embeddings.patch_embeddings.projection", clip)
    names = [f"{prefix}encoder.layer.{i}" for i in range(DEPTH)]
    x = through([layer(draw, name, 1e-12, biases) for name in names], x)
    if classification:
        pooled = draw.norm("fc_norm", 1e-5)(x.mean(0))
    else:
        x = draw.norm("layernorm", 1e-12)(x)
        pooled = x.mean(0)
    taken = len(draw.tensors)
    if classification:
        draw.linear("classifier", 5, WIDTH)
    config = {
        "model_type": "videomae", "num_attention_heads": HEADS, "num_frames": 4, "image_size": 8,
        "layer_norm_eps": 1e-12, "hidden_act": "gelu", "qkv_bias": True,
    }  # fmt: skip
    return Case(draw.tensors, "video", clip, x, pooled, {}, config, taken)


def audiomae(*, finetuned=False):
    """Tokens run along time first, and so do the kernel and the table."""
    draw = Draw(4)
    mels, columns, side = 8, 12, 4
    sound = draw.rng.normal(size=(mels, columns)).astype(np.float32)
    kernel = draw("patch_embed.proj.weight", WIDTH, 1, side, side)
    bias = draw("patch_embed.proj.bias", WIDTH)
    patches = convolved(sound.T[None], kernel, bias, (side, side)).reshape(-1, WIDTH)
    x = np.concatenate([draw("cls_token", 1, 1, WIDTH)[0], patches])
    x = x + draw("pos_embed", 1, len(x), WIDTH)[0]
    x = through([block(draw, f"blocks.{i}", 1e-6) for i in range(DEPTH)], x)
    if finetuned:
        pooled = draw.norm("fc_norm", 1e-6)(x[1:].mean(0))
    else:
        x = draw.norm("norm", 1e-6)(x)
        pooled = x[1:].mean(0)
    taken = len(draw.tensors)
    if finetuned:
        draw.linear("head", 5, WIDTH)
    else:
        draw("mask_token", 1, 1, 4), draw("decoder_blocks.0.norm1.weight", 4)
    by_time = x[1:].reshape(columns // side, mels // side, WIDTH)
    x = np.concatenate([x[:1], by_time.swapaxes(0, 1).reshape(-1, WIDTH)])
    given = {"audio": {"mels": mels, "columns": columns}, "heads": HEADS}
    return Case(draw.tensors, "audio", sound, x, pooled, given, taken=taken)


def cavmae(modality):
    """Both towers, one is requested; the last block is shared except for its norms."""
    draw = Draw(5)
    sound = draw.rng.normal(size=(8, 12)).astype(np.float32)
    frame = draw.rng.normal(size=(1, 8, 8, 3)).astype(np.float32)
    out = {}
    for letter, x in {"a": sound[None], "v": frame[0].transpose(2, 0, 1)}.items():
        kernel = draw(f"patch_embed_{letter}.proj.weight", WIDTH, len(x), 4, 4)
        bias = draw(f"patch_embed_{letter}.proj.bias", WIDTH)
        tokens = convolved(x, kernel, bias, (4, 4)).reshape(-1, WIDTH)
        tokens = tokens + draw(f"pos_embed_{letter}", 1, len(tokens), WIDTH)[0]
        tokens = tokens + draw(f"modality_{letter}", 1, 1, WIDTH)[0]
        own = block(draw, f"blocks_{letter}.0", 1e-5)
        norms = (f"norm1_{letter}", f"norm2_{letter}")
        joint = block(draw, "blocks_u.0", 1e-5, norms=norms)
        out[letter] = draw.norm(f"norm_{letter}", 1e-5)(through([own, joint], tokens))
    taken = len(draw.tensors)
    draw.norm("blocks_a.0.norm1_v", 1e-5), draw.norm("blocks_u.0.norm1", 1e-5)
    draw.norm("norm", 1e-5), draw("decoder_pos_embed_a", 1, 6, 4)
    tensors = {f"module.{name}": value for name, value in draw.tensors.items()}
    given = {"heads": HEADS, "audio": {"mels": 8, "columns": 12}}
    view, tokens = (sound if modality == "audio" else frame), out[modality[0]]
    return Case(tensors, modality, view, tokens, tokens.mean(0), given, taken=taken)


def ast():
    """Patches that overlap, and two special tokens."""
    draw = Draw(6)
    mels, columns, side, stride = 8, 12, 4, (2, 3)
    sound = draw.rng.normal(size=(mels, columns)).astype(np.float32)
    name = "embeddings.patch_embeddings.projection"
    kernel, bias = draw(f"{name}.weight", WIDTH, 1, side, side), draw(f"{name}.bias", WIDTH)
    patches = convolved(sound[None], kernel, bias, stride).reshape(-1, WIDTH)
    special = [draw(f"embeddings.{n}_token", 1, 1, WIDTH)[0] for n in ("cls", "distillation")]
    x = np.concatenate([*special, patches])
    x = x + draw("embeddings.position_embeddings", 1, len(x), WIDTH)[0]
    biases = ("query.bias", "key.bias", "value.bias")
    x = through([layer(draw, f"encoder.layer.{i}", 1e-12, biases) for i in range(DEPTH)], x)
    x = draw.norm("layernorm", 1e-12)(x)
    config = {
        "model_type": "audio-spectrogram-transformer", "num_attention_heads": HEADS,
        "num_mel_bins": mels, "max_length": columns, "layer_norm_eps": 1e-12,
        "frequency_stride": stride[0], "time_stride": stride[1], "qkv_bias": True,
    }  # fmt: skip
    return Case(draw.tensors, "audio", sound, x, x[:2].mean(0), {}, config, len(draw.tensors))


CASES = {
    "videomae_pretrain": videomae_pretrain,
    "videomae_finetune": videomae_finetune,
    "videomae_transformers": videomae_transformers,
    "videomae_transformers, new names": lambda: videomae_transformers(new_names=True),
    "videomae_transformers, classifier": lambda: videomae_transformers(classification=True),
    "audiomae": audiomae,
    "audiomae, finetuned": lambda: audiomae(finetuned=True),
    "cavmae, audio": lambda: cavmae("audio"),
    "cavmae, video": lambda: cavmae("video"),
    "ast": ast,
}


def load_case(folder, name):
    """A case's file, loaded, and the case."""
    case = CASES[name]()
    return xkd_jax.load(write_case(folder, case), **case.given), case


def write_case(folder, case, *, key=""):
    """Writes a case's file, whose tensors may be under a key, and returns its path."""
    tensors = torch_files.tensors_of(case.tensors)
    path = folder / "weights.pth"
    path.write_bytes(torch_files.zipped({key: tensors} if key else tensors))
    if case.config:
        (folder / "config.json").write_text(json.dumps(case.config))
    return path
