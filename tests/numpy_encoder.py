"""A plain float64 encoder with every option of `EncoderConfig`, one line an equation."""

import math

import numpy as np

_erf = np.vectorize(math.erf)


def gelu(x):
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)))


def layer_norm(x, eps, params=None):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x if params is None else x * params["scale"] + params["bias"]


def patches(view, patch, stride):
    """Every patch, flattened, found by slicing."""
    counts = [(n - p) // s + 1 for n, p, s in zip(view.shape[1:], patch, stride, strict=False)]
    found = []
    for place in np.ndindex(*counts):
        box = tuple(slice(i * s, i * s + p) for i, p, s in zip(place, patch, stride, strict=True))
        found.append(view[(slice(None), *box)].reshape(len(view), -1))
    return np.stack(found, 1)


def attention(x, layer):
    q, k, v = np.einsum("bnd,dkhc->kbhnc", x, layer["qkv"]["kernel"])
    if "bias" in layer["qkv"]:
        q, k, v = (a + b[:, None] for a, b in zip((q, k, v), layer["qkv"]["bias"], strict=True))
    scores = np.einsum("bhnc,bhmc->bhnm", q, k) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhnm,bhmc->bnhc", weights, v)
    return np.einsum("bnhc,hcd->bnd", mixed, layer["proj"]["kernel"]) + layer["proj"]["bias"]


def encode(config, params, view):
    """Tokens and pooled features of views at the size that the positions are for."""
    params = _float64(params)
    embedding, patch = params["embedding"], config.view.patch
    x = patches(np.asarray(view, np.float64), patch, config.stride or patch)
    x = x @ embedding["projection"]["kernel"] + embedding["projection"]["bias"]
    if config.special_tokens:
        first = np.broadcast_to(embedding["cls"], (len(x), *embedding["cls"].shape))
        x = np.concatenate([first, x], 1)
    x = x + embedding["positions"]
    eps = config.transformer.norm_eps
    for i in range(config.transformer.depth):
        layer = _take(params["blocks"]["layers"], i)
        x = x + attention(layer_norm(x, eps, layer["norm1"]), layer)
        hidden = layer_norm(x, eps, layer["norm2"]) @ layer["fc1"]["kernel"] + layer["fc1"]["bias"]
        x = x + gelu(hidden) @ layer["fc2"]["kernel"] + layer["fc2"]["bias"]
    if config.norm == "tokens":
        x = layer_norm(x, config.norm_eps, params["norm"])
    special = config.special_tokens
    pooled = (x[:, :special] if config.pool == "special" else x[:, special:]).mean(1)
    if config.norm == "pooled":
        pooled = layer_norm(pooled, config.norm_eps, params["norm"])
    return x, pooled


def _float64(tree):
    if isinstance(tree, dict):
        return {name: _float64(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)


def _take(tree, i):
    if isinstance(tree, dict):
        return {name: _take(value, i) for name, value in tree.items()}
    return tree[i]
