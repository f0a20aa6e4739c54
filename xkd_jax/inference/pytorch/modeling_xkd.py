"""The encoders of an exported model in PyTorch, for `AutoModel.from_pretrained`.

This file is copied into every exported folder and stands alone. Inputs have the size that the
model was trained with.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class XKDConfig(PretrainedConfig):
    """`encoders`: {"video" or "audio": its entry in `config.json`}."""

    model_type = "xkd"

    def __init__(self, encoders: dict[str, Any] | None = None, **kwargs: Any):
        self.encoders = encoders or {}
        super().__init__(**kwargs)


@dataclass
class XKDOutput(ModelOutput):
    """Tokens [batch, tokens, width], special ones first, and pooled features [batch, width].

    `last_hidden_state` and `pooler_output` are those of the only modality that was given.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    video_tokens: torch.Tensor | None = None
    video_features: torch.Tensor | None = None
    audio_tokens: torch.Tensor | None = None
    audio_features: torch.Tensor | None = None


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, transformer: dict[str, Any]):
        super().__init__()
        width, eps = transformer["width"], transformer["norm_eps"]
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = _Attention(width, transformer["heads"], transformer["qkv_bias"])
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = _MLP(width, round(width * transformer["mlp_ratio"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    """Patches, flattened in the order of the view's axes, through a linear layer."""

    def __init__(self, values: int, width: int, patch: list[int], stride: list[int]):
        super().__init__()
        self.patch, self.stride = patch, stride or patch
        self.proj = nn.Linear(values, width)

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """Embeds the patches of a view, [batch, *axes] or [batch, *axes, color]."""
        axes = len(self.patch)
        for axis, (side, step) in enumerate(zip(self.patch, self.stride), 1):
            view = view.unfold(axis, side, step)  # appends the patch's axis
        color = view.dim() - 1 - 2 * axes
        if color:  # color is between the counts and the sides
            view = view.movedim(1 + axes, -1)
        batch, *counts = view.shape[: 1 + axes]
        return self.proj(view.reshape(batch, int(torch.tensor(counts).prod()), -1))


class _Encoder(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        transformer, view = config["transformer"], config["view"]
        width, special = transformer["width"], config["special_tokens"]
        patch, stride = list(view["patch"]), list(config["stride"])
        video = len(patch) == 3
        shape = (
            [view["frames"], view["size"], view["size"]]
            if video
            else [view["mels"], view["columns"]]
        )
        self.shape, self.special, self.pool = shape, special, config["pool"]
        tokens = values = 1
        for size, side, step in zip(shape, patch, stride or patch):
            tokens, values = tokens * ((size - side) // step + 1), values * side
        self.patch_embed = _PatchEmbed(values * (3 if video else 1), width, patch, stride)
        self.pos_embed = nn.Parameter(torch.zeros(1, special + tokens, width))
        if special:
            self.cls_token = nn.Parameter(torch.zeros(1, special, width))
        self.blocks = nn.ModuleList(_Block(transformer) for _ in range(transformer["depth"]))
        norm = nn.LayerNorm(width, eps=config["norm_eps"])
        self.norm = norm if config["norm"] == "tokens" else None
        self.fc_norm = norm if config["norm"] == "pooled" else None

    def forward(self, view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = list(view.shape[1 : 1 + len(self.shape)])
        if found != self.shape:
            raise ValueError(f"The input has the shape {found}: give {self.shape}.")
        x = self.patch_embed(view)
        if self.special:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        if self.norm is not None:
            x = self.norm(x)
        chosen = x[:, : self.special] if self.pool == "special" else x[:, self.special :]
        pooled = chosen.mean(1)
        return x, pooled if self.fc_norm is None else self.fc_norm(pooled)


class XKDModel(PreTrainedModel):
    """The encoders of the folder, of video, audio or both."""

    config_class = XKDConfig

    def __init__(self, config: XKDConfig):
        super().__init__(config)
        for modality, description in config.encoders.items():
            self.add_module(modality, _Encoder(description))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: weights are always loaded."""

    def get_video_features(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """Features [batch, width] of normalized frames [batch, time, color, height, width]."""
        return self.video(pixel_values_videos.permute(0, 1, 3, 4, 2))[1]

    def get_audio_features(self, input_values: torch.Tensor) -> torch.Tensor:
        """Features [batch, width] of normalized spectrograms [batch, time, mel]."""
        return self.audio(input_values.transpose(1, 2))[1]

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> XKDOutput:
        """Encodes one modality or both; shapes are those of `get_video_features` and its like."""
        out: dict[str, torch.Tensor] = {}
        found = []
        if pixel_values_videos is not None:
            found.append(self.video(pixel_values_videos.permute(0, 1, 3, 4, 2)))
            out["video_tokens"], out["video_features"] = found[-1]
        if input_values is not None:
            found.append(self.audio(input_values.transpose(1, 2)))
            out["audio_tokens"], out["audio_features"] = found[-1]
        if len(found) == 1:
            out["last_hidden_state"], out["pooler_output"] = found[0]
        return XKDOutput(**out)
