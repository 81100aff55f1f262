"""How much of what int4 costs a training with rounding recovers, with the float network as teacher, on MNIST.

    python tests/benchmarks/int4_training.py [--network NAME] [--bits BITS] [--seeds 0,1,2]

Stages and settings are those of `recipes/quantization-aware.toml`, but no layer may return to float: weights in groups
of 32 with a scale each, activations in int8. The networks are LeNet-300-100, LeNet-5, and the small network that
`recipes/records/` distill, each trained on 10,000 digits and tested on 10,000. Intervals are over the test samples of
all seeds. Training with rounding is also training: a control trains the float network for as long, by the same teacher.
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
CONTROL: dict[str, Any] = {
    "stages.2.technique": "distillation",
    "stages.2.params": {"teacher": "reference", "temperature": 4.0},
    "stages.2.with": [],
}  # the second stage without rounding


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


def row(recipe: Recipe, number: int, model: nn.Module, data: Data) -> Floats:
    """What is wrong with the answers of a stage that starts with a network."""
    reference = masks.clone(model).requires_grad_(False)
    reseed(recipe.seed, number)
    return wrong(perform(recipe.stages[number - 1], model, reference, data).model, data)


def measure(network: str, widths: list[int], seeds: list[int]) -> list[list[object]]:
    found: dict[int, list[list[Floats]]] = {width: [] for width in widths}
    for seed in seeds:
        settings = {**NETWORKS[network], "data.args": {"samples": SAMPLES}, "seed": seed}
        recipe = read_recipe("quantization-aware", {**settings, **CONTROL})
        data = make_data(recipe.data)
        model = trained(recipe, data, seed)
        before, control = wrong(model, data), row(recipe, 2, model, data)
        for width in widths:
            dtypes = {f"stages.{stage}.params.dtype": f"int{width}" for stage in (1, 2)}
            narrow = read_recipe("quantization-aware", {**settings, **ANY_COST, **dtypes})
            found[width].append([before, *(row(narrow, number, model, data) for number in (1, 2)), control])
            errors = [f"{each.sum():.0f}" for each in found[width][-1]]
            print(f"{network}, {width} bits, seed {seed}: errors", *errors, flush=True)
    return [_kept(network, width, seeds, runs) for width, runs in found.items()]


def _kept(network: str, width: int, seeds: list[int], runs: list[list[Floats]]) -> list[object]:
    before, nearest, better, control = (np.concatenate(each) for each in zip(*runs, strict=True))
    result, of_control = recovered(before, nearest, better), recovered(control, nearest, better)
    errors = [[int(each.sum()) for each in run] for run in runs]
    case = {"network": network, "bits": width, "seeds": seeds}
    against = {f"control_{name}": value for name, value in of_control._asdict().items()}
    keep(FILE, case, {"samples": len(runs[0][0]), "errors": errors, **result._asdict(), **against})
    return [network, width, result.lost, result.left, str(result), of_control.left, str(of_control)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS))
    parser.add_argument("--bits", action="append", type=int, choices=[4, 2])
    parser.add_argument("--seeds", default="0,1,2")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    table = [row for name in asked.network or NETWORKS for row in measure(name, asked.bits or [4, 2], seeds)]
    heads = ["lost to the nearest, points", "lost when trained", "recovered (95 % interval)"]
    control = ["lost when trained, against the control", "recovered, against the control"]
    print(tabulate(table, ["network", "bits", *heads, *control], floatfmt=".2f"))


if __name__ == "__main__":
    main()
