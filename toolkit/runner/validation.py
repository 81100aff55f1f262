"""Metrics of a model on the validation split while it is trained, which leave no trace in the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import torch
from torch import nn

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.eval_mode import in_eval_mode
from toolkit.metrics import answers, quality
from toolkit.metrics.support.quality_format import quality_format
from toolkit.seeding import preserve_generators
from toolkit.training import Training
from toolkit.training.weights import weight_functions

Metrics: TypeAlias = Mapping[str, float | None]


def validation_metrics(model: nn.Module, data: Data, training: Training) -> dict[str, float | None]:
    """Return the metrics of quality by name, the primary one first; None for a number that is not finite.

    The network sees its weights through the functions of the training, whose modules are in eval mode, too. Parameters,
    buffers, modes and random generators are the same afterwards.
    """
    with preserve_generators(), ExitStack() as kept:
        for module in (model, *training.modules):
            kept.enter_context(_kept_buffers(module))
        for module in training.modules:
            kept.enter_context(in_eval_mode(module))
        evaluated = _evaluated(model)
        kept.enter_context(torch.no_grad())
        kept.enter_context(weight_functions(evaluated, training.weights))
        values = quality(answers(evaluated, data, "validation"))
    return {metric: _finite(values[metric]) for metric in data.quality if metric in values}


def primary_text(metrics: Metrics) -> str:
    """Return the first of the metrics in words: `validation accuracy 98.12 %`."""
    name, value = next(iter(metrics.items()))
    form = quality_format(name)
    return f"validation {form.name} {'not finite' if value is None else form.text(value)}"


def _evaluated(model: nn.Module) -> nn.Module:
    """Return the model, or a copy if a module does more in `train()` than set a flag, such as merge weights."""
    sets_flag = all(type(module).train is nn.Module.train for module in model.modules())
    return model if sets_flag else masks.clone(model)


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of all modules on exit; some modules count or average in eval mode, too."""
    buffers = [
        (buffer, buffer.clone())
        for module in model.modules()
        for buffer in module._buffers.values()
        if buffer is not None
    ]
    registered = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, of_module in registered:  # some are None until the first call in eval mode
            module._buffers.clear()
            module._buffers.update(of_module)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
