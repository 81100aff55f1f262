"""A network whose parts have no names that a file could refer to; never edited, like the files written of it."""

import torch
from torch import Tensor, nn


class Shortcut(nn.Module):
    """A layer that is a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def residual(channels: int = 2) -> nn.Sequential:
    """A block with a lambda as its shortcut, and a class that is defined in here."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, channels, 3, stride=2, padding=1)
            self.shortcut = Shortcut(lambda inputs: inputs[:, :, ::2, ::2].repeat(1, channels, 1, 1))

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.relu(self.layer(inputs) + self.shortcut(inputs))

    return nn.Sequential(Block(), nn.Flatten(), nn.Linear(16 * channels, 4))
