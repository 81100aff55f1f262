"""The ranges of activations, from samples of the train split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from toolkit import Data, TechniqueError
from toolkit_quantization.calibration_samples import calibration_batches
from toolkit_quantization.static.network import QUANTIZERS
from toolkit_quantization.static.quantizer import Quantizer
from toolkit_quantization.static.ranges import Histogram, Method, histogram, mse_range, percentile_range

Watch = Callable[[str, Tensor], None]


def calibrate(model: nn.Module, data: Data, samples: int, method: Method) -> None:
    """Give every quantizer of a model its range, in place.

    Args:
        model: has static networks.
        data: its train split is read.
        samples: how many of them, spread evenly over the split.
        method: the whole range, the range of 99.99 % of the values, or that with the smallest squared error.

    Raises:
        TechniqueError: a quantizer is never reached, or activations are not finite.
    """
    ranges = _whole_ranges(model, data, samples)
    if method != "minmax":
        choose = percentile_range if method == "percentile" else mse_range
        seen = _histograms(model, data, samples, ranges)
        ranges = {path: choose(each) for path, each in seen.items()}
    for path, quantizer in quantizers(model).items():
        quantizer.set_range(*ranges[path])


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Return the quantizers of a model by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Quantizer)}


def _whole_ranges(model: nn.Module, data: Data, samples: int) -> dict[str, tuple[Tensor, Tensor]]:
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def widen(path: str, values: Tensor) -> None:
        low, high = values.aminmax()
        known = ranges.get(path, (low, high))
        ranges[path] = torch.minimum(known[0], low), torch.maximum(known[1], high)

    _run(model, data, samples, widen)
    for path in quantizers(model):
        place = f"the activations at '{path.replace(f'{QUANTIZERS}.', '')}'"
        if path not in ranges:
            raise TechniqueError(f"{place} are never computed on the calibration samples; exclude the layer there")
        if not all(end.isfinite() for end in ranges[path]):
            raise TechniqueError(f"{place} are not finite on the calibration samples; exclude the layer there")
    return ranges


def _histograms(
    model: nn.Module, data: Data, samples: int, ranges: dict[str, tuple[Tensor, Tensor]]
) -> dict[str, Histogram]:
    seen: dict[str, Histogram] = {}

    def count(path: str, values: Tensor) -> None:
        new = histogram(values, *ranges[path])
        seen[path] = new._replace(counts=seen[path].counts + new.counts) if path in seen else new

    _run(model, data, samples, count)
    return seen


@torch.no_grad()
def _run(model: nn.Module, data: Data, samples: int, watch: Watch) -> None:
    model.eval()
    with _watched(model, watch):
        for batch in calibration_batches(data, samples):
            data.task.forward(model, batch)


@contextmanager
def _watched(model: nn.Module, watch: Watch) -> Iterator[None]:
    """Let quantizers pass on what they get to `watch`, and round nothing."""
    with ExitStack() as undo:
        for path, quantizer in quantizers(model).items():

            def see(_: nn.Module, inputs: tuple[Tensor], path: str = path) -> None:
                watch(path, inputs[0].detach().float())

            undo.callback(quantizer.register_forward_pre_hook(see).remove)
            undo.callback(setattr, quantizer, "is_active", quantizer.is_active)
            quantizer.is_active = False
        yield
