"""Networks with attentions of torch.nn, and small ones of torchvision, timm and transformers with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toolkit

SIDE = 8


class Attending(nn.Module):
    """Rows of a picture attend to each other, or the last ones to the first ones of another size."""

    def __init__(self, batch_first: bool = True, bias: bool = True, kdim: int | None = None) -> None:
        super().__init__()
        self.enter = nn.Linear(SIDE, 12)
        self.attention = nn.MultiheadAttention(12, 4, bias=bias, batch_first=batch_first, kdim=kdim, vdim=kdim)
        self.leave = nn.Linear(12, 4)
        self.is_crossing, self.batch_first = kdim is not None, batch_first

    def forward(self, x: Tensor) -> Tensor:
        rows = x.squeeze(1)
        query = self.enter(rows)
        key = rows[:, 2:] if self.is_crossing else query
        if not self.batch_first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        outputs, _ = self.attention(query, key, key)
        return self.leave(outputs.mean(1 if self.batch_first else 0))


def vit() -> nn.Module:
    """Return a ViT of torchvision for pictures of 16 pixels."""
    import torchvision

    return torchvision.models.VisionTransformer(16, 8, 2, 4, 32, 32, num_classes=4)


def swin() -> nn.Module:
    """Return a Swin transformer of torchvision for pictures of 32 pixels, whose second blocks shift their windows."""
    import torchvision

    return torchvision.models.SwinTransformer([2, 2], 32, [2, 2], [4, 8], [4, 4], num_classes=4)


def timm_vit() -> nn.Module:
    """Return a small ViT of timm for pictures of 16 pixels."""
    timm: Any = pytest.importorskip("timm")
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 4}
    return timm.create_model("vit_tiny_patch16_224", **sizes)


def timm_swin() -> nn.Module:
    """Return a small Swin transformer of timm for pictures of 32 pixels."""
    timm: Any = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 32, "depths": (2, 2), "num_heads": (4, 8)}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=4, **sizes)


def bert() -> nn.Module:
    """Return a small BERT that classifies sentences."""
    transformers: Any = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=4, **sizes)
    return transformers.BertForSequenceClassification(config)


def distilbert() -> nn.Module:
    """Return a small DistilBERT that classifies sentences."""
    transformers: Any = pytest.importorskip("transformers")
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 32}
    config = transformers.DistilBertConfig(vocab_size=50, max_position_embeddings=16, num_labels=4, **sizes)
    return transformers.DistilBertForSequenceClassification(config)


def sentences(samples: int = 4, length: int = 10) -> toolkit.Data:
    """Return random sentences, the last words of some of which are padding, all of class 0."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 50, (samples, length), generator=generator)
    mask = torch.ones_like(words)
    mask[::2, -3:] = 0
    return toolkit.Data(train=({"input_ids": words, "attention_mask": mask}, torch.zeros(samples, dtype=torch.int64)))
