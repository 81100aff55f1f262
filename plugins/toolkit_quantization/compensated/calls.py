"""The calls of layers while a model runs on samples of the train split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from torch import nn

from toolkit import Data
from toolkit_quantization.arithmetic import no_fused_paths
from toolkit_quantization.calibration_samples import calibration_batches

Watch = Callable[[str, tuple[Any, ...], dict[str, Any]], None]


class _Done(Exception):
    """All calls of a batch that were asked for have been seen."""


class Calls:
    """How often a model calls each of some layers, batch by batch, and in which order it does so first."""

    def __init__(self, model: nn.Module, layers: Iterable[str], data: Data, samples: int) -> None:
        self._data, self._samples = data, samples
        self.order: dict[str, int] = {}
        self._counts: list[Counter[str]] = []
        modules = {layer: model.get_submodule(layer) for layer in layers}

        def count(layer: str, *_: Any) -> None:
            self.order.setdefault(layer, len(self.order))
            self._counts[-1][layer] += 1

        with _watched(modules, count):
            for batch in calibration_batches(data, samples):
                self._counts.append(Counter())
                data.task.forward(model, batch)

    def watch(self, model: nn.Module, layers: Mapping[str, nn.Module], see: Watch) -> None:
        """Run a model with the same calls, and pass those of some layers on; it need not run to its end."""
        left = 0

        def see_one(layer: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal left
            see(layer, args, kwargs)
            left -= 1
            if left == 0:
                raise _Done

        with _watched(layers, see_one):
            for batch, counts in zip(calibration_batches(self._data, self._samples), self._counts, strict=True):
                left = sum(counts[layer] for layer in layers)
                if left:
                    _run_to_last(self._data, model, batch)


def _run_to_last(data: Data, model: nn.Module, batch: Any) -> None:
    with suppress(_Done):
        data.task.forward(model, batch)


def _watched(layers: Mapping[str, nn.Module], watch: Watch) -> ExitStack:
    with ExitStack() as undo:
        undo.enter_context(no_fused_paths())
        for layer, module in layers.items():

            def see(_: nn.Module, args: Any, kwargs: Any, layer: str = layer) -> None:
                watch(layer, args, kwargs)

            undo.callback(module.register_forward_pre_hook(see, with_kwargs=True).remove)
        return undo.pop_all()
