"""Int8 against float on an MLP 784-1200-1200-10 in one thread: `python tests/benchmarks/int8.py [batch …]`.

All models take turns, so that a busy machine slows them alike; a time is the median over the turns. Compiling
takes a minute or two. torchao is left out where it is not installed: `pip install torchao`.
"""

import importlib.util
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from tabulate import tabulate
from toolkit_quantization import Params, convert, relative_error
from toolkit_quantization.inductor import compiled
from torch import Tensor, nn

from toolkit import masks

Run: TypeAlias = Callable[[Tensor], Any]

SIZES = (784, 1200, 1200, 10)
SECONDS = {1: 1.5, 32: 6.0, 256: 12.0}


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


def torchao_int8(model: nn.Module) -> nn.Module:
    """torchao's int8 with a scale for each row and each output channel."""
    from torchao import quantization

    model = masks.clone(model)
    quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
    return model


def candidates(model: nn.Module) -> dict[str, Run]:
    """Every way to run the model; those that cannot be had here are left out."""
    own = convert(masks.clone(model), Params())
    found: dict[str, Run] = {"float": model, "own int8": own, "own int8, compiled": compiled(own)}
    for engine in ("x86", "onednn"):
        if engine in torch.backends.quantized.supported_engines:
            found[f"quantize_dynamic, {engine}"] = quantize_dynamic(model, engine)
    if "x86" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "x86"
        found["engine torch, x86"] = convert(masks.clone(model), Params(engine="torch"))
    if importlib.util.find_spec("torchao"):
        found["torchao"] = torchao_int8(model)
        found["torchao, compiled"] = torch.compile(torchao_int8(model), dynamic=False)
    return found


def size_bytes(run: Run) -> int:
    """The size of what `torch.save` writes of the state of a model."""
    if not isinstance(run, nn.Module):
        return 0
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    return file.tell()


def medians_us(models: dict[str, Run], inputs: Tensor, seconds: float) -> dict[str, tuple[float, dict[str, float]]]:
    """Of each the median time in microseconds and the median ratios to all, taking turns for so long."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model(inputs)  # compiled, packed
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["float"]) < 5:
        for name, model in models.items():
            model(inputs)  # the one before it has filled the caches
            started = time.perf_counter()
            model(inputs)
            times[name].append(time.perf_counter() - started)

    def ratio(name: str, other: str) -> float:
        return statistics.median(mine / its for mine, its in zip(times[name], times[other], strict=True))

    return {
        name: (statistics.median(values) * 1e6, {other: ratio(name, other) for other in models})
        for name, values in times.items()
    }


@torch.inference_mode()
def main(batches: list[int]) -> None:
    """Print one table: microseconds, ratios to float and to the faster quantize_dynamic, errors and sizes."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = mlp()
    models = candidates(model)
    exact = masks.clone(model).double()
    table = []
    for batch in batches:
        inputs = torch.randn(batch, SIZES[0])
        times = medians_us(models, inputs, SECONDS.get(batch, 6.0))
        rival = min((name for name in times if name.startswith("quantize_dynamic")), key=lambda name: times[name][0])
        reference = exact(inputs.double())
        for name, (duration, ratios) in times.items():
            error = relative_error(models[name](inputs).double(), reference)
            size = size_bytes(models[name]) / 1e6 or None
            table.append([batch, name, duration, ratios["float"], ratios[rival], error, size])
    headers = ["batch", "model", "µs", "of float", "of faster quantize_dynamic", "error", "MB"]
    print(tabulate(table, headers, floatfmt=("", "", ".0f", ".2f", ".2f", ".4f", ".2f")))


if __name__ == "__main__":
    main([int(batch) for batch in sys.argv[1:]] or list(SECONDS))
