"""Residual networks for pictures of 32 × 32 pixels, with the names of layers that published checkpoints use.

He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2, with shortcuts without weights (option A).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)  # channels of the three groups


class Block(nn.Module):
    """Two convolutions beside a shortcut, which skips every second pixel and pads channels where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.padding = stride, (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, channels, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(residual + x)


class ResNet(nn.Module):
    """A network of 6 · `blocks` + 2 layers: (N, 3, 32, 32) -> logits (N, classes)."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _group(blocks, WIDTHS[0], WIDTHS[0], 1)
        self.layer2 = _group(blocks, WIDTHS[0], WIDTHS[1], 2)
        self.layer3 = _group(blocks, WIDTHS[1], WIDTHS[2], 2)
        self.linear = nn.Linear(WIDTHS[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of pictures."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _group(blocks: int, channels_in: int, channels: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(blocks - 1)))


def resnet20(classes: int = 10) -> ResNet:
    """Build the network of 20 layers: 269,722 parameters for ten classes."""
    return ResNet(3, classes)


def resnet56(classes: int = 10) -> ResNet:
    """Build the network of 56 layers: 853,018 parameters for ten classes."""
    return ResNet(9, classes)
