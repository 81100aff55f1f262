"""Recurrent layers in PyTorch, float against int8: `python tests/benchmarks/lstm.py`.

LSTMs and GRUs of three layers, whose inputs lie within six orders of magnitude and of which a few weights are far out,
as in recognizers of speakers. `stored` multiplies floats, `products` integers; `quantize_dynamic` is PyTorch's own. All
models take turns, so that a busy machine slows them alike; a ratio is the median over the turns, in brackets the
quartiles.
"""

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from toolkit_quantization import Params, convert, relative_error
from torch import Tensor, nn

from toolkit import masks
from toolkit import model_files as artifact
from toolkit.timing import time_in_turn

SHAPES = [(1, 1), (1, 20), (1, 160), (8, 160), (32, 160)]  # sequences at once, steps
TURNS = 25


def heavy_tailed(kind: type[nn.LSTM | nn.GRU], inputs: int = 40, hidden: int = 256, layers: int = 3) -> nn.RNNBase:
    """A recurrent layer of which five weights of each matrix are thirty times as large as the others."""
    model = kind(inputs, hidden, layers, batch_first=True).eval()
    with torch.no_grad():
        for weights in model.all_weights:
            for weight in weights[:2]:
                weight.view(-1)[torch.randperm(weight.numel())[:5]] *= 30
    return model


def energies(batch: int, steps: int, inputs: int = 40) -> Tensor:
    """Inputs (batch, steps, inputs) from 1e-4 to 1e2, some sequences loud and others quiet."""
    levels = torch.rand(batch, 1, 1) * 4 - 3
    return 10 ** (levels + torch.rand(batch, steps, inputs) * 2 - 1)


def quantize_dynamic(model: nn.Module) -> nn.Module:
    """PyTorch's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao import quantization

        return quantization.quantize_dynamic(nn.Sequential(model), {type(model)})[0]


def times_s(models: dict[str, nn.Module], inputs: Tensor) -> np.ndarray:
    """Times (models, turns) of models that take turns, each after an untimed call."""
    calls = {name: partial(model, inputs) for name, model in models.items()}
    timings = time_in_turn(calls, 0, min_rounds=TURNS, warm_up=True)
    return np.array([timings.seconds[name] for name in models])


def ratio(times: np.ndarray, before: np.ndarray) -> str:
    """The median of the ratios of the turns, and their quartiles."""
    low, middle, high = np.quantile(times / before, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def converted(model: nn.Module, params: Params) -> nn.Module:
    made: Any = convert(nn.ModuleList([masks.clone(model)]), params)
    layer: nn.Module = made[0]
    return layer


def measure(kind: type[nn.LSTM | nn.GRU]) -> list[list[object]]:
    """Print errors and sizes of one kind of layer, and return the rows of its latencies."""
    model = heavy_tailed(kind)
    products = Params(recurrent="int8", arithmetic="int8")
    models = {"float": model, "stored": converted(model, Params()), "products": converted(model, products)}
    models["quantize_dynamic"] = quantize_dynamic(model)
    inputs = energies(32, 160)
    expected = masks.clone(model).double()(inputs.double())[0]
    errors = [[name, relative_error(each(inputs)[0].double(), expected)] for name, each in models.items()]
    print(tabulate(errors, [kind.__name__, "error"], floatfmt=("", ".2e")))
    sizes = [sum(map(len, artifact.pack(models[name]).values())) for name in ("float", "products")]
    print(f"file: {sizes[1]} of {sizes[0]} bytes, {sizes[1] / sizes[0]:.3f}")
    rows: list[list[object]] = []
    for batch, steps in SHAPES:
        times = times_s(models, energies(batch, steps))
        rows.append([kind.__name__, batch, steps, *(ratio(each, times[0]) for each in times[1:])])
    return rows


@torch.inference_mode()
def main() -> None:
    """Print the errors and the file's size, and the latency of each relative to float."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = [*measure(nn.LSTM), *measure(nn.GRU)]
    heads = [f"{name} to float" for name in ("stored", "products", "quantize_dynamic")]
    print(tabulate(rows, ["layer", "batch", "steps", *heads]))


if __name__ == "__main__":
    main()
