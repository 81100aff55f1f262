"""ResNet-18 at 224 pixels: half its MACs go, and what is left becomes int8 in ONNX Runtime; batch 1, one thread.

    python tests/benchmarks/composite.py [--budget SECONDS]

The steps and params are those of `recipes/resnet18.toml`, but nothing is trained: the weights are random, so that only
times and bytes count. All models take turns, each after an untimed call; intervals are those of the median ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from functools import partial
from typing import Any

import toolkit_channels as channels
import torch
from static_int8 import Run, of_torchvision, opened
from tabulate import tabulate
from toolkit_channels.ranking import Before, choose
from toolkit_channels.scoring import unit_scores
from toolkit_quantization.params import Params
from toolkit_quantization.static.stage import calibrated, converted
from torch import nn

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.recipe.shipped import shipped
from toolkit.timing import Timings, time_in_turn

MIN_ROUNDS = 30
ROWS = ["float", "channels", "static int8", "channels, static int8"]


def params(technique: str) -> dict[str, Any]:
    """The params of a technique in the recipe."""
    stages = tomllib.loads(shipped()["resnet18"].read_text(encoding="utf-8"))["stages"]
    found: dict[str, Any] = next(stage["params"] for stage in stages if stage["technique"] == technique)
    return found


def without_channels(model: nn.Module, data: Data) -> nn.Module:
    asked = channels.Params(**params("channels"))
    cut = masks.clone(model)
    structure = channels.analyze(cut, data, asked.layers, asked.exclude)
    before = Before(
        structure.cost(asked.of), {path: structure.width(path) for group in structure.groups for path in group.layers}
    )
    gone = choose(structure, unit_scores(structure, cut, asked, data), asked, asked.amount, before)
    print(f"{structure.cost('macs', gone) / before.cost:.3f} of the MACs are left")
    channels.remove(cut, structure, gone, data)
    return cut


def in_integers(model: nn.Module, data: Data) -> nn.Module:
    asked = Params(**params("quantization"), max_drop=100.0)
    ready = calibrated(masks.clone(model), asked, data)
    return converted(ready.model, ready, asked).model


def speed(timings: Timings[str], name: str, reference: str) -> str:
    """How many times as fast as the reference, and the interval."""
    low, high = timings.ratio_interval(reference, name)
    return f"{timings.ratio(reference, name):.2f} ({low:.2f} to {high:.2f})"


def smaller(name: str, sizes: dict[str, int]) -> float | None:
    return sizes["float"] / sizes[name] if name in sizes else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=60.0)
    budget_s = parser.parse_args().budget
    torch.set_num_threads(1)
    case = of_torchvision("resnet18", 224)
    cut = without_channels(case.model, case.data)
    made = case.model, cut, in_integers(case.model, case.data), in_integers(cut, case.data)
    models = dict(zip(ROWS, made, strict=True))
    inputs = case.data.example(1).inputs
    calls: dict[str, partial[Any]] = {f"{name} in PyTorch": partial(models[name], inputs) for name in ROWS[:2]}
    sizes: dict[str, int] = {}
    for name, model in models.items():
        run: Run
        run, file = opened(model, case.data.example(2).inputs, tempfile.mkdtemp())
        calls[name], sizes[name] = partial(run, inputs), file.stat().st_size
    with torch.no_grad():
        timings = time_in_turn(calls, budget_s, min_rounds=MIN_ROUNDS, warm_up=True)
    rows = [
        [name, *(speed(timings, name, reference) for reference in ("float in PyTorch", "float")), smaller(name, sizes)]
        for name in calls
    ]
    heads = ["model (a file, if not in PyTorch)", "times as fast as in PyTorch", "as the float file", "times smaller"]
    print(tabulate(rows, heads, floatfmt=".2f"))


if __name__ == "__main__":
    main()
