"""Puts the table of what `channels` can cut into docs/howto/channels.md: `python tests/benchmarks/channel_coverage.py`.

Networks have random weights. 30 % and 60 % of all units are drawn and cut; the table has the larger difference of the
outputs from those of the masked network, in units of the largest output. Needs timm and transformers.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "channels"))

from attention_networks import sentences
from channel_networks import Recurrent, ResNetA, UNet, cut_and_masked, data_of, randomized
from toolkit_channels import analyze

import toolkit
from toolkit.models import lenet5
from toolkit.testing import TOY_MODELS

SHARES = (0.3, 0.6)
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "channels.md"
HEADER = "| network | layers cut | parameters left | difference | why the others stay |\n|---|---|---|---|---|"
PICTURES = {
    "ResNet-18": "resnet18",
    "ResNet-50": "resnet50",
    "ResNeXt-50": "resnext50_32x4d",
    "RegNet-Y-400MF": "regnet_y_400mf",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3-S": "mobilenet_v3_small",
    "MobileNetV3-L": "mobilenet_v3_large",
    "MNASNet-0.5": "mnasnet0_5",
    "EfficientNet-B0": "efficientnet_b0",
    "DenseNet-121": "densenet121",
    "VGG-16-BN": "vgg16_bn",
    "GoogLeNet": "googlenet",
    "SqueezeNet-1.1": "squeezenet1_1",
    "ShuffleNetV2-0.5": "shufflenet_v2_x0_5",
    "ConvNeXt-T": "convnext_tiny",
    "Swin-T": "swin_t",
    "ViT-B/16": "vit_b_16",
}


def networks() -> Iterator[tuple[str, Callable[[], nn.Module], toolkit.Data]]:
    """Yield the name of each network, what builds it, and data that it runs on."""
    for name, make in TOY_MODELS.items():
        yield f"toy `{name}`", make, data_of(1, 8, 8)
    yield "LeNet-5", lenet5, data_of(1, 28, 28)
    yield "ResNet-20 for CIFAR, option A", ResNetA, data_of(3, 32, 32)
    yield "ResNet-56 for CIFAR, option A", partial(ResNetA, 9), data_of(3, 32, 32)
    yield "a U-Net", UNet, data_of(1, 8, 8)
    yield "an LSTM of two layers in both directions", Recurrent, data_of(1, 8, 8)
    for name, source in PICTURES.items():
        side = 224 if source == "vit_b_16" else 64
        yield f"{name} (torchvision)", partial(_torchvision, source), data_of(3, side, side)
    yield "ViT-Ti/16 (timm)", partial(_timm, "vit_tiny_patch16_224"), data_of(3, 224, 224)
    yield "Swin-T (timm)", partial(_timm, "swin_tiny_patch4_window7_224"), data_of(3, 224, 224)
    yield "BERT base (transformers)", partial(_transformers, "Bert"), sentences()
    yield "DistilBERT base (transformers)", partial(_transformers, "DistilBert"), sentences()


def row(name: str, make: Callable[[], nn.Module], data: toolkit.Data) -> str:
    """Return a row of the table."""
    torch.manual_seed(0)
    model = randomized(make())
    structure = analyze(model, data, ["*"], [])
    cut = {layer for group in structure.groups for layer in group.layers}
    reasons = Counter(re.sub(r"'[^']+'", "a layer", reason) for reason in structure.kept.values())
    results = [cut_and_masked(model, data, share) for share in SHARES]
    left = [_parameters(result[0]) / _parameters(model) for result in results]
    difference = max(result[1] for result in results)
    told = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    total = len(cut | structure.kept.keys())
    return f"| {name} | {len(cut)} of {total} | {left[0]:.0%}, {left[1]:.0%} | {difference:.0e} | {told} |"


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _torchvision(source: str) -> nn.Module:
    args = {"aux_logits": False, "init_weights": False} if source == "googlenet" else {}
    model: nn.Module = getattr(torchvision.models, source)(weights=None, **args)
    return model


def _timm(name: str) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name)
    return model


def _transformers(name: str) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")()
    model: nn.Module = getattr(transformers, f"{name}ForSequenceClassification")(config)
    return model


def into_page(table: str) -> None:
    """Put the table between its marks in the manual."""
    marks = "(<!-- table: .* -->\n).*?(<!-- end of table -->)"
    text = PAGE.read_text(encoding="utf-8")
    replaced, count = re.subn(marks, lambda match: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL)
    assert count == 1, "the page has lost the marks around its table"
    PAGE.write_text(replaced, encoding="utf-8")


def main() -> None:
    """Print each row when it is known, and write the page at the end."""
    rows = [HEADER]
    for name, make, data in networks():
        try:
            rows.append(row(name, make, data))
        except toolkit.ToolkitError as error:
            rows.append(f"| {name} | refused | | | {error} |")
        print(rows[-1], flush=True)
    into_page("\n".join(rows))


if __name__ == "__main__":
    main()
