"""The attention of torchvision's Swin transformers, for heads that its inputs do not divide into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit.stored_names import stored_as

OTHER_REGION = -100.0  # what torchvision adds to the scores of positions that only the shift made neighbors


@stored_as("channels.NarrowWindowAttention")
class NarrowWindowAttention(nn.Module):
    """Attention in shifted windows of pictures (batch, height, width, size), with the layers of torchvision's class.

    Liu et al., "Swin Transformer: hierarchical vision transformer using shifted windows", ICCV 2021.
    """

    qkv: nn.Linear
    proj: nn.Linear
    window_size: list[int]
    shift_size: list[int]
    num_heads: int
    relative_position_bias_table: Tensor
    relative_position_index: Tensor
    attention_dropout: float
    dropout: float

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        down, across = self.window_size
        x = F.pad(x, (0, 0, 0, -width % across, 0, -height % down))
        sizes = list(x.shape[1:3])
        shifts = [
            shift if window < size else 0
            for shift, window, size in zip(self.shift_size, self.window_size, sizes, strict=True)
        ]
        rolled = torch.roll(x, [-shift for shift in shifts], (1, 2))
        windows = self._windows(rolled)
        outputs = self._attend(windows, self._biases(sizes, shifts, x))
        grid = outputs.view(x.shape[0], sizes[0] // down, sizes[1] // across, down, across, -1)
        joined = grid.transpose(2, 3).reshape(x.shape[0], *sizes, grid.shape[-1])
        return torch.roll(joined, shifts, (1, 2))[:, :height, :width].contiguous()

    def _windows(self, x: Tensor) -> Tensor:
        """Return the windows of pictures as sequences, (batch * windows, positions, size)."""
        down, across = self.window_size
        grid = x.unflatten(2, (-1, across)).unflatten(1, (-1, down))
        return grid.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _attend(self, windows: Tensor, biases: Tensor) -> Tensor:
        heads = self.qkv(windows).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        biases = biases.repeat(windows.shape[0] // biases.shape[0], 1, 1, 1)
        values = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], biases, dropout)
        return F.dropout(self.proj(values.transpose(1, 2).flatten(2)), self.dropout, self.training)

    def _biases(self, sizes: Sequence[int], shifts: Sequence[int], x: Tensor) -> Tensor:
        """Return what is added to the scores, (windows or 1, heads, positions, positions)."""
        area = self.window_size[0] * self.window_size[1]
        table = self.relative_position_bias_table[self.relative_position_index]
        biases = table.view(area, area, -1).permute(2, 0, 1).unsqueeze(0)
        if not any(shifts):
            return biases
        regions = [
            (torch.arange(size, device=x.device) >= size - window).long() * (shift > 0)
            + (torch.arange(size, device=x.device) >= size - shift).long() * (shift > 0)
            for size, window, shift in zip(sizes, self.window_size, shifts, strict=True)
        ]
        numbers = self._windows((3 * regions[0][:, None] + regions[1])[None, :, :, None]).squeeze(2)
        is_other = numbers.unsqueeze(1) != numbers.unsqueeze(2)
        return biases + OTHER_REGION * is_other.unsqueeze(1).to(biases.dtype)


def narrow_windows(attention: Any) -> None:
    """Make an attention of torchvision work with the heads that it has left, in place, masked or not."""
    own = type(attention)
    if parametrize.is_parametrized(attention):
        body = {name: value for name, value in vars(own).items() if name not in ("__dict__", "__weakref__")}
        attention.__class__ = type(own.__name__, (NarrowWindowAttention,), body)
    else:
        attention.__class__ = NarrowWindowAttention


__all__ = ["NarrowWindowAttention", "narrow_windows"]
