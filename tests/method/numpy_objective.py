"""The objective in float64 NumPy, implemented from docs/method.md, independent of our code."""

import numpy as np
from numpy_networks import decode, encode, head, patches, softmax

GAMMAS = [10.0**k for k in range(-3, 4)]


def squared_mmd(x, y):
    def kernel(a, b):
        distances = ((a[:, None] - b[None]) ** 2).sum(-1)
        return sum(np.exp(-gamma * distances).mean() for gamma in GAMMAS)

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def reconstruction(target, prediction, removed):
    mean = target.mean(-1, keepdims=True)
    target = (target - mean) / np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
    errors = ((prediction - target) ** 2).mean(-1)
    return errors[removed].mean()


def refine(tokens, own, other, mode):
    """Outer product of both attentions, as in the paper."""
    cross = own[:, :, :, None] * other[:, :, None, :]
    averaged = cross.mean(-1)
    weights = softmax(averaged) if mode == "softmax" else averaged / own.mean(-1, keepdims=True)
    weighted = tokens * weights.mean(1)[:, :, None]
    energy = (tokens.mean(1) ** 2).sum(-1) / (weighted.mean(1) ** 2).sum(-1)
    return weighted * np.sqrt(energy)[:, None, None]


def objective(student, teacher, centers, temperatures, views, noise, config):
    """Returns the loss, the terms, and the centers of the next step; all terms are computed."""
    loss = config.loss
    terms, projected, taught = {}, {}, {}
    attended = {}
    for m in ("video", "audio"):
        settings = config.modality(m)
        whole = views[m]["global"]
        order = np.argsort(noise[m], axis=1)
        kept = round(order.shape[1] * (1 - settings.mask_ratio))
        latent, _ = encode(student["encoders"], m, whole, config, keep=order[:, :kept])
        removed = np.ones(order.shape, bool)
        np.put_along_axis(removed, order[:, :kept], False, axis=1)
        terms[f"reconstruct_{m}"] = reconstruction(
            patches(whole, settings.patch, channels=m == "video"),
            decode(student["decoders"][m], latent, order, kept),
            removed,
        )
        pooled = [latent[:, 1:].mean(1)]
        for view in views[m].get("local", []):
            pooled.append(encode(student["encoders"], m, view, config)[0][:, 1:].mean(1))
        projected[m] = np.stack([head(student["heads"][m], p) for p in pooled])
        seen = whole if loss.teacher_view == "global" else views[m]["local"][0]
        attended[m] = encode(teacher["encoders"], m, seen, config)
    for m, other in (("video", "audio"), ("audio", "video")):
        tokens, own = attended[m]
        tokens = tokens[:, 1:]
        if loss.refinement != "none":
            tokens = refine(tokens, own, attended[other][1], loss.refinement)
        taught[m] = head(teacher["heads"][m], tokens.mean(1))
    moved = {}
    for source, target in (("video", "audio"), ("audio", "video")):
        name = f"{source}_to_{target}"
        q = softmax((taught[source] - centers[name]) / temperatures[source])
        log_p = np.log(softmax(projected[target] / loss.student_temperature))
        terms[f"distill_{name}"] = np.mean([-(q * view).sum(-1).mean() for view in log_p])
        moved[name] = loss.center_momentum * centers[name] + (1 - loss.center_momentum) * taught[
            source
        ].mean(0)
    rows = {m: p.reshape(-1, p.shape[-1]) for m, p in projected.items()}
    terms["align_students"] = squared_mmd(rows["video"], rows["audio"])
    terms["align_teachers"] = squared_mmd(taught["video"], taught["audio"])
    weights = {name: getattr(loss.weights, name) for name in terms}
    total = sum(weights[name] * term for name, term in terms.items()) / sum(weights.values())
    return total, terms, moved
