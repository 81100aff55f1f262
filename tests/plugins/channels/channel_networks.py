"""Networks that route their channels in every way that there is a rule for, and in some for which there is none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from toolkit_channels import Structure, analyze
from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit.structure.removal import cut as cut_units


def data_of(*shape: int, samples: int = 4) -> toolkit.Data:
    """Return a few random samples of a shape, all of class 0."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, *shape, generator=generator)
    return toolkit.Data(train=(inputs, torch.zeros(samples, dtype=torch.int64)))


def pictures() -> toolkit.Data:
    """Return random pictures of ten classes in three splits."""

    def split(samples: int) -> tuple[Tensor, Tensor]:
        return torch.randn(samples, 3, 8, 8), torch.arange(samples) % 10

    return toolkit.Data(train=split(64), validation=split(32), test=split(32))


def resnet_on_pictures(blocks: int) -> str:
    """Return the model and the data of a recipe."""
    return f"""
[model]
source = "{__file__}:ResNetA"
args = {{ blocks = {blocks}, width = 8 }}
training = {{ epochs = 1 }}
[data]
source = "{__file__}:pictures"
"""


def randomized(model: nn.Module) -> nn.Module:
    """Draw everything that is initialized to a constant, so that each channel counts."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.numel() > 1 and float(tensor.std()) == 0:
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_(0.3, 0.3)
    return model.eval()


def some_units(structure: Structure, share: float) -> list[int]:
    """Return this share of the units of every group, but never a whole layer."""
    generator = torch.Generator().manual_seed(2)
    removed: list[int] = []
    for group in structure.groups:
        count = min(int(share * len(group.units)), len(group.units) - (group.staying == 0))
        removed += [group.units[n] for n in torch.randperm(len(group.units), generator=generator)[:count].tolist()]
    return removed


@torch.no_grad()
def cut_and_masked(model: nn.Module, data: toolkit.Data, share: float) -> tuple[nn.Module, float, float]:
    """Return the cut network, how far its outputs are from the masked one's, and those from the network's."""
    structure = analyze(model, data, ["*"], [])
    removed = some_units(structure, share)
    masked, cut = masks.clone(model), masks.clone(model)
    masks.apply(masked, structure.masks(removed))
    cut_units(cut, structure, removed)
    outputs = [data.task.logits(data.task.forward(network, data.example(2))) for network in (cut, masked, model)]
    scale = max(1.0, float(outputs[1].abs().max()))
    assert sum(p.numel() for p in cut.parameters()) == structure.cost("parameters", removed)
    return cut, float((outputs[0] - outputs[1]).abs().max()) / scale, float((outputs[1] - outputs[2]).abs().max())


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class OptionA(nn.Module):
    """A residual block for CIFAR whose shortcut halves the pictures and pads the channels with zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = Lambda(lambda x: x)
        if inputs != outputs:
            around = (0, 0, 0, 0, outputs // 4, outputs // 4)
            self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], around, "constant", 0))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNetA(nn.Module):
    """A ResNet for CIFAR with shortcuts of option A (He et al. 2016)."""

    def __init__(self, blocks: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width] * (blocks + 1) + [2 * width] * blocks + [4 * width] * blocks
        self.blocks = nn.Sequential(*[OptionA(*pair) for pair in pairwise(widths)])
        self.linear = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(F.relu(self.bn1(self.conv1(x))))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a joint of both; group norm below, instance norm above."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.InstanceNorm2d(width, affine=True), nn.LeakyReLU(0.1)
        )
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.joint = nn.Conv2d(2 * width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        above = self.enter(x)
        below = F.silu(self.norm(self.down(above)))
        joined = torch.cat([self.up(below), above], dim=1)
        return self.leave(torch.relu(self.joint(joined))).mean((2, 3))


class Squeezed(nn.Module):
    """A grouped and a depthwise convolution, scaled by what a sigmoid makes of their mean, with learned slopes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 24, 3, padding=1, groups=8)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.slopes = nn.PReLU(24)
        self.down, self.up = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.gamma = nn.Parameter(torch.ones(24, 1, 1))
        self.leave = nn.Linear(24 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.depthwise(self.grouped(self.enter(x))))
        scale = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        pooled = F.max_pool2d(self.gamma * (x * scale), 4)
        return self.leave(torch.flatten(pooled, 1))


class Sequence(nn.Module):
    """One-dimensional convolutions over the rows of a picture, moved to the last dimension and flattened with them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(8, 12, 3, padding=1)
        self.norm = nn.BatchNorm1d(12)
        self.hidden = nn.Linear(12, 16)
        self.leave = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.enter(x.squeeze(1)))).transpose(1, 2)
        return self.leave(F.gelu(self.hidden(x)).flatten(1))


class Recurrent(nn.Module):
    """Two layers of a recurrent network in both directions, what they return and their last states."""

    def __init__(self, kind: Callable[..., nn.Module] = nn.LSTM, bidirectional: bool = True, layers: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 12)
        self.recurrent = kind(12, 16, layers, batch_first=True, bidirectional=bidirectional)
        self.leave = nn.Linear(16 * (1 + bidirectional) + 16, 4)
        self.is_lstm = kind is nn.LSTM

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = self.recurrent(torch.relu(self.enter(x.squeeze(1))))
        last = state[0] if self.is_lstm else state
        return self.leave(torch.cat([outputs[:, -1], last[-1]], 1))


class Inherited(nn.Conv1d):
    """A convolution with settings of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)


def encoders() -> nn.Sequential:
    """Return two blocks of a transformer behind a convolution whose class is not of torch.nn."""
    block = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, activation="gelu", batch_first=True)
    blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
    return nn.Sequential(
        nn.Flatten(1, 2), Inherited(8, 16), nn.ReLU(), Inherited(16, 4), blocks, nn.Flatten(), nn.Linear(32, 4)
    )
