"""Int8 against float on an MLP 784-1200-1200-10 in one thread: `python tests/benchmarks/int8.py`.

All models take turns, so that a busy machine slows them alike; a time is the median over the turns.
"""

import statistics
import time
import warnings
from itertools import pairwise

import torch
from tabulate import tabulate
from toolkit_quantization import Params, convert, relative_error
from torch import Tensor, nn

from toolkit import masks

SIZES = (784, 1200, 1200, 10)
SECONDS = {1: 1.5, 32: 3.0, 256: 9.0}


def mlp() -> nn.Module:
    """The float model, in eval mode."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(SIZES):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def quantize_dynamic(model: nn.Module, engine: str) -> nn.Module:
    """PyTorch's own, per channel, packed by one of its engines."""
    torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao import quantization

        return quantization.quantize_dynamic(model, {nn.Linear: quantization.per_channel_dynamic_qconfig})


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Every way to run the model; those that cannot be had here are left out."""
    found = {"float": model, "own int8": convert(masks.clone(model), Params())}
    for engine in ("x86", "onednn"):
        if engine in torch.backends.quantized.supported_engines:
            found[f"quantize_dynamic, {engine}"] = quantize_dynamic(model, engine)
    if "x86" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "x86"
        found["engine torch, x86"] = convert(masks.clone(model), Params(engine="torch"))
    return found


def medians_us(models: dict[str, nn.Module], inputs: Tensor, seconds: float) -> dict[str, float]:
    """The median time of each in microseconds, all taking turns for so long."""
    times: dict[str, list[float]] = {name: [] for name in models}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["float"]) < 5:
        for name, model in models.items():
            model(inputs)  # the one before it has filled the caches
            started = time.perf_counter()
            model(inputs)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) * 1e6 for name, values in times.items()}


@torch.inference_mode()
def main() -> None:
    """Print one table: microseconds, ratios to float and to the faster quantize_dynamic, and output errors."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = mlp()
    models = candidates(model)
    exact = masks.clone(model).double()
    table = []
    for batch, seconds in SECONDS.items():
        inputs = torch.randn(batch, SIZES[0])
        times = medians_us(models, inputs, seconds)
        rival = min(value for name, value in times.items() if name.startswith("quantize_dynamic"))
        reference = exact(inputs.double())
        for name, duration in times.items():
            error = relative_error(models[name](inputs).double(), reference)
            table.append([batch, name, duration, duration / times["float"], duration / rival, error])
    headers = ["batch", "model", "µs", "of float", "of faster quantize_dynamic", "error"]
    print(tabulate(table, headers, floatfmt=("", "", ".0f", ".2f", ".2f", ".4f")))


if __name__ == "__main__":
    main()
