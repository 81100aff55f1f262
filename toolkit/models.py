"""The built-in models: small networks that the literature on compression uses most."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

from torch import nn

from toolkit.errors import InputError


def lenet5(width: float = 1.0) -> nn.Sequential:
    """Build Caffe's LeNet-5 (20-50-500, 431,080 parameters): (N, 1, 28, 28) -> logits (N, 10).

    `width` scales the two convolutions and the hidden layer. LeCun et al., "Gradient-based learning applied to
    document recognition", 1998, as shipped with Caffe: max pooling, one ReLU.
    """
    first, second, hidden = _scaled(width, 20, 50, 500)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, first, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * second, hidden),
            relu=nn.ReLU(),
            fc2=nn.Linear(hidden, 10),
        )
    )


def lenet_300_100(width: float = 1.0) -> nn.Sequential:
    """Build LeNet-300-100 (266,610 parameters): (N, 1, 28, 28) -> logits (N, 10); `width` scales both hidden layers."""
    return mlp(hidden=_scaled(width, 300, 100))


def mlp(
    hidden: list[int], inputs: int = 784, classes: int = 10, dropout: float = 0.0, input_dropout: float = 0.0
) -> nn.Sequential:
    """Build linear layers with ReLU between them: (N, …) with `inputs` values per sample -> logits (N, classes).

    During training, `dropout` is the probability of zero for each hidden unit, `input_dropout` for each input.
    Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors", 2012, use 0.5 and 0.2.
    """
    _require_probabilities(dropout=dropout, input_dropout=input_dropout)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    if input_dropout:
        layers["dropout0"] = nn.Dropout(input_dropout)
    widths = [inputs, *hidden]
    for number, (width_in, width_out) in enumerate(pairwise(widths), start=1):
        layers[f"fc{number}"] = nn.Linear(width_in, width_out)
        layers[f"relu{number}"] = nn.ReLU()
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
    layers[f"fc{len(widths)}"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(layers)


def convnet(
    channels: list[int], pool_after: list[int] | None = None, size: int = 28, classes: int = 10
) -> nn.Sequential:
    """Build 3 × 3 convolutions with batch norm and ReLU, and a linear layer: (N, 1, size, size) -> (N, classes).

    Args:
        channels: channels of each convolution, which has no padding and no bias (the norm would cancel it).
        pool_after: numbers of the convolutions, from 1, that are followed by 2 × 2 max pooling; None for all except the
            first and the last.
        size: height and width of the images, in pixels.
        classes: number of logits.

    Raises:
        InputError: the images are too small for the convolutions and poolings.
    """
    pooled = list(range(2, len(channels))) if pool_after is None else pool_after
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (channels_in, channels_out) in enumerate(pairwise([1, *channels]), start=1):
        layers[f"conv{number}"] = nn.Conv2d(channels_in, channels_out, 3, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(channels_out)
        layers[f"relu{number}"] = nn.ReLU()
        size -= 2
        if number in pooled:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            size //= 2
    if size < 1:
        raise InputError(f"convnet: the images are too small for {len(channels)} convolutions; shorten `pool_after`")
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels[-1] * size**2, classes)
    return nn.Sequential(layers)


def _require_probabilities(**probabilities: float) -> None:
    for name, probability in probabilities.items():
        if not 0 <= probability < 1:
            raise InputError(f"{name} must be at least 0 and below 1, found {probability}")


def _scaled(width: float, *units: int) -> list[int]:
    """Return the numbers of units times `width`, rounded, at least 1."""
    if not 0 < width < float("inf"):
        raise InputError(f"width must be above 0, found {width}")
    return [max(1, round(width * count)) for count in units]


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "lenet-300-100": lenet_300_100,
    "mlp": mlp,
    "convnet": convnet,
}
