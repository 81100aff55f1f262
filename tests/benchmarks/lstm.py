"""An LSTM with heavy-tailed inputs in int8 against float and quantize_dynamic: `python tests/benchmarks/lstm.py`.

The energies of a batch lie within six orders of magnitude and a few weights are far out, as in recognizers of speakers.
All models take turns, so that a busy machine slows them alike; a ratio is the median over the turns.
"""

import statistics
import time
import warnings
from typing import Any

import torch
from tabulate import tabulate
from toolkit_quantization import Params, convert, relative_error
from torch import Tensor, nn

from toolkit import masks
from toolkit import model_files as artifact

SHAPES = [(1, 1), (1, 20), (1, 160), (8, 160), (32, 160)]  # sequences at once, steps
TURNS = 25


def heavy_tailed(inputs: int = 40, hidden: int = 256, layers: int = 3) -> nn.LSTM:
    """An LSTM of which five weights of each matrix are thirty times as large as the others."""
    model = nn.LSTM(inputs, hidden, layers, batch_first=True).eval()
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

        return quantization.quantize_dynamic(nn.Sequential(model), {nn.LSTM})[0]


def median_ratios(models: dict[str, nn.Module], inputs: Tensor) -> dict[str, float]:
    """The time of each over that of the first in the same turn."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(TURNS):
        for name, model in models.items():
            started = time.perf_counter()
            model(inputs)
            times[name].append(time.perf_counter() - started)
    first = next(iter(times.values()))
    return {
        name: statistics.median(own / float_ for own, float_ in zip(values[1:], first[1:], strict=True))
        for name, values in times.items()
    }


@torch.inference_mode()
def main() -> None:
    """Print the errors and the file's size, and the latency of each relative to float."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = heavy_tailed()
    own: Any = convert(nn.ModuleList([masks.clone(model)]), Params())
    models = {"float": model, "own int8": own[0], "quantize_dynamic": quantize_dynamic(model)}
    inputs = energies(32, 160)
    expected = masks.clone(model).double()(inputs.double())[0]
    errors = [[name, relative_error(found(inputs)[0].double(), expected)] for name, found in models.items()]
    print(tabulate(errors, ["model", "error"], floatfmt=("", ".2e")))
    sizes = [sum(map(len, artifact.pack(found).values())) for found in (model, own[0])]
    print(f"file: {sizes[1]} of {sizes[0]} bytes, {sizes[1] / sizes[0]:.3f}")
    rows = []
    for batch, steps in SHAPES:
        ratios = median_ratios(models, energies(batch, steps))
        rows.append([batch, steps, *list(ratios.values())[1:]])
    print(tabulate(rows, ["batch", "steps", "own int8 to float", "quantize_dynamic to float"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
