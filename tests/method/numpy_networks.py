"""The networks in float64 NumPy, implemented from the paper, independent of `xkd_jax.networks`.

Parameters are the nested dictionaries of a training state. Loops are used where they are plainer
than array expressions.
"""

import itertools
import math

import numpy as np
from bicubic import kernel
from numpy_encoder import gelu


def layer_norm(x, params=None, eps=1e-5):
    centered = x - x.mean(-1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps)
    return normed if params is None else normed * params["scale"] + params["bias"]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear(x, params):
    return x @ params["kernel"] + params["bias"]


def patches(view, patch, channels):
    """[batch, *shape(, channels)] to [batch, tokens, values], one patch at a time."""
    view = view if channels else view[..., None]
    shape = view.shape[1:-1]
    starts = itertools.product(*(range(0, n, p) for n, p in zip(shape, patch, strict=True)))
    cut = [
        view[(slice(None), *(slice(a, a + p) for a, p in zip(start, patch, strict=True)))]
        for start in starts
    ]
    return np.stack([c.reshape(len(view), -1) for c in cut], axis=1)


def resize_axis(table, axis, new, method):
    """PyTorch's interpolation without antialiasing; scale (new + 0.1) / old."""
    old = table.shape[axis]
    if old == new:
        return table
    rows = []
    for i in range(new):
        source = (i + 0.5) / ((new + 0.1) / old) - 0.5
        if method == "linear":
            source = max(source, 0.0)
            taps = {0: 1 - source % 1, 1: source % 1}
        else:
            taps = {k: kernel(source % 1 - k) for k in (-1, 0, 1, 2)}
        picks = (
            weight * np.take(table, min(max(math.floor(source) + k, 0), old - 1), axis)
            for k, weight in taps.items()
        )
        rows.append(sum(picks))
    return np.stack(rows, axis)


def positions(params, grid, new_grid, methods):
    cls, table = params[:1], params[1:].reshape(*grid, -1)
    for axis, (new, method) in enumerate(zip(new_grid, methods, strict=True)):
        table = resize_axis(table, axis, new, method)
    return np.concatenate([cls, table.reshape(-1, params.shape[-1])])


def attention(x, params):
    """The block's attention output, and the weights [batch, heads, queries, keys]."""
    qkv = np.einsum("bnd,dkhc->kbhnc", layer_norm(x, params["norm1"]), params["qkv"]["kernel"])
    q, k, v = qkv
    weights = softmax(np.einsum("bhnc,bhmc->bhnm", q, k) / math.sqrt(q.shape[-1]))
    mixed = np.einsum("bhnm,bhmc->bnhc", weights, v)
    out = np.einsum("bnhc,hcd->bnd", mixed, params["proj"]["kernel"]) + params["proj"]["bias"]
    return out, weights


def blocks(x, stacked):
    """Runs the blocks; also returns the last one's CLS attention over the patch tokens."""
    layers = stacked["layers"]
    for i in range(len(layers["fc1"]["bias"])):
        params = {
            name: {key: value[i] for key, value in group.items()} for name, group in layers.items()
        }
        attended, weights = attention(x, params)
        x = x + attended
        hidden = gelu(linear(layer_norm(x, params["norm2"]), params["fc1"]))
        x = x + linear(hidden, params["fc2"])
    return x, weights[:, :, 0, 1:]


def encode(encoders, modality, view, config, keep=None):
    """Tokens [batch, 1 + n, width] and the last block's CLS attention."""
    settings = config.modality(modality)
    params = encoders["embeddings"][modality]
    flat = patches(view, settings.patch, channels=modality == "video")
    grid = tuple(n // p for n, p in zip(view.shape[1:], settings.patch, strict=False))
    methods = ("linear", "linear", "linear") if modality == "video" else (None, "cubic")
    table = positions(params["positions"], settings.grid, grid, methods)
    tokens = linear(flat, params["projection"]) + table[1:]
    if keep is not None:
        tokens = np.stack([row[chosen] for row, chosen in zip(tokens, keep, strict=True)])
    cls = np.broadcast_to(params["cls"] + table[:1], (len(tokens), 1, tokens.shape[-1]))
    owner = "shared" if "shared" in encoders["blocks"] else modality
    x, weights = blocks(np.concatenate([cls, tokens], axis=1), encoders["blocks"][owner])
    return layer_norm(x, encoders["norms"][modality]), weights


def decode(params, latent, order, kept):
    """Predicted patches; `order` [batch, tokens] lists kept tokens first."""
    x = linear(latent, params["embed"]) if "embed" in params else latent
    batch, tokens = order.shape
    full = np.broadcast_to(params["mask_token"], (batch, tokens, x.shape[-1])).copy()
    for row, places in enumerate(order[:, :kept]):
        full[row, places] = x[row, 1:]
    x = np.concatenate([x[:, :1], full], axis=1) + params["positions"]
    x = blocks(x, params["blocks"])[0][:, 1:]
    return linear(x, params["output"]) if "output" in params else x


def head(params, x):
    *hidden, last = (params["linears"][i] for i in sorted(params["linears"]))
    for layer in hidden:
        x = gelu(layer_norm(linear(x, layer), params["norm"]))
    x = linear(x, last)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    directions = params["directions"]
    return layer_norm(x @ (directions / np.linalg.norm(directions, axis=0)))
