"""What is measured of a model: by the core, and by plugins under their full names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import TechniqueError
from toolkit.metrics import accuracy, counts, latency, macs
from toolkit.recipe import Step
from toolkit.report import Note
from toolkit.tasks import Data


def core_metrics(
    model: nn.Module,
    baseline: nn.Module,
    data: Data,
    batch_sizes: Sequence[int],
    budget_s: float,
    on_progress: Callable[[float, float], None] | None = None,
) -> dict[str, Any]:
    """Accuracy, parameters, zeros and MACs of any model, and its latency in turn with the baseline's."""
    split = "test" if data.test is not None else "validation"
    return {
        **accuracy(model, data, split),
        **counts(model),
        "macs": macs(model, data),
        **latency(model, baseline, data, batch_sizes, budget_s, on_progress),
    }


def named_measures(step: Step, model: nn.Module, data: Data, prepared: Any) -> dict[str, Any]:
    """Call `measure` and return `{"<technique>.<name>": number or Note}`; anything else is a `TechniqueError`."""
    technique = step.technique
    if not technique.implements("measure"):
        return {}
    with torch.no_grad():
        values = technique.call("measure", model=model, params=step.params, data=data, prepared=prepared)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise TechniqueError(f"{technique} must return a dictionary from measure, not {type(values).__name__}")
    return {f"{technique.name}.{name}": _checked(technique, name, value) for name, value in values.items()}


def _checked(technique: Any, name: str, value: Any) -> float | int | Note | None:
    if isinstance(value, Note):
        return value
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, Real) and not hasattr(value, "__float__"):
        kind = type(value).__name__
        raise TechniqueError(f"{technique} must return numbers or toolkit.Note from measure, '{name}' is a {kind}")
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None  # JSON knows neither NaN nor infinity
