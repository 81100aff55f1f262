"""How much of what int4 costs a training with rounding recovers, with the float network as teacher, on MNIST.

    python tests/benchmarks/int4_training.py [--network NAME] [--bits BITS] [--seeds 0,1,2]

Stages and settings are those of `recipes/quantization-aware.toml`, but no layer may return to float: weights in groups
of 32 with a scale each, activations in int8. The networks are LeNet-300-100, LeNet-5, and the small network that
`recipes/records/` distill, each trained on 10,000 digits and tested on 10,000. Intervals are over the test samples of
all seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recovered import keep, recovered
from tabulate import tabulate
from torch import nn

from toolkit import Data, masks
from toolkit.metrics import answers
from toolkit.recipe.read import Recipe, read_recipe
from toolkit.runner.assembly import make_data
from toolkit.runner.stage import perform
from toolkit.seeding import reseed
from toolkit.statistics import Floats
from toolkit.training import Training, fit

FILE = Path(__file__).with_name("int4_training.json")
SAMPLES = 10_000
NETWORKS: dict[str, dict[str, Any]] = {
    "lenet-300-100": {"model.source": "lenet-300-100"},
    "lenet5": {"model.source": "lenet5"},
    "small": {"model.source": "convnet", "model.args": {"channels": [8, 8, 16, 16]}},
}
ANY_COST = {
    f"stages.{stage}.params.{bound}": 1e6 for stage in (1, 2) for bound in ("max_drop", "max_error")
}  # so that all layers stay in int4


def wrong(model: nn.Module, data: Data) -> Floats:
    """Which of the test samples a model gets wrong, (N,)."""
    correct = answers(model, data).correct
    assert correct is not None
    wrong: Floats = (~correct).double().numpy()
    return wrong


def trained(recipe: Recipe, data: Data, seed: int) -> nn.Module:
    """The network of a recipe after the training that the recipe has for it."""
    settings = recipe.model.training
    assert settings is not None
    reseed(seed, 0)
    model = recipe.model.build()
    fit(model, Training(settings, data.task.loss), data.without_test())
    return model.eval()


def rows(recipe: Recipe, model: nn.Module, data: Data, seed: int) -> list[Floats]:
    """What is wrong with the answers of both stages of a recipe, each from the same network."""
    reference = masks.clone(model).requires_grad_(False)
    made = []
    for number, stage in enumerate(recipe.stages, start=1):
        reseed(seed, number)
        made.append(wrong(perform(stage, model, reference, data).model, data))
    return made


def measure(network: str, widths: list[int], seeds: list[int]) -> list[list[object]]:
    settings = {**NETWORKS[network], "data.args": {"samples": SAMPLES}, **ANY_COST}
    found: dict[int, list[list[Floats]]] = {width: [] for width in widths}
    for seed in seeds:
        recipe = read_recipe("quantization-aware", {**settings, "seed": seed})
        data = make_data(recipe.data)
        model = trained(recipe, data, seed)
        before = wrong(model, data)
        for width in widths:
            dtypes = {f"stages.{stage}.params.dtype": f"int{width}" for stage in (1, 2)}
            narrow = read_recipe("quantization-aware", {**settings, "seed": seed, **dtypes})
            found[width].append([before, *rows(narrow, model, data, seed)])
            print(network, f"{width} bits, seed {seed}: errors", *(f"{each.sum():.0f}" for each in found[width][-1]))
    return [_kept(network, width, seeds, runs) for width, runs in found.items()]


def _kept(network: str, width: int, seeds: list[int], runs: list[list[Floats]]) -> list[object]:
    result = recovered(*(np.concatenate(each) for each in zip(*runs, strict=True)))
    errors = [[int(each.sum()) for each in run] for run in runs]
    case = {"network": network, "bits": width, "seeds": seeds}
    keep(FILE, case, {"samples": len(runs[0][0]), "errors": errors, **result._asdict()})
    return [network, width, result.lost, result.left, str(result)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS))
    parser.add_argument("--bits", action="append", type=int, choices=[4, 2])
    parser.add_argument("--seeds", default="0,1,2")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    table = [row for name in asked.network or NETWORKS for row in measure(name, asked.bits or [4, 2], seeds)]
    heads = ["network", "bits", "lost to the nearest, points", "lost when trained", "recovered (95 % interval)"]
    print(tabulate(table, heads, floatfmt=".2f"))


if __name__ == "__main__":
    main()
