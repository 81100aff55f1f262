"""Checks what a technique's hooks return, and tells the author where it is something else."""

from __future__ import annotations

from typing import Any

from torch import nn

from toolkit.errors import TechniqueError
from toolkit.hooks.loading import Plugin
from toolkit.params import Params
from toolkit.training import Training


def require_model(technique: Plugin, value: Any, hook: str = "optimize") -> nn.Module:
    """Return the return value of `optimize` or `finish`, which must be a model."""
    if isinstance(value, nn.Module):
        return value
    remedy = "return it alone" if isinstance(value, tuple) else "end it with 'return model'"
    raise TechniqueError(f"{technique} must return the model from {hook}, found {_kind(value)}; {remedy}")


def require_training(technique: Plugin, value: Any) -> Training:
    """Return the return value of `finetune`, which must be a training."""
    if isinstance(value, Training):
        return value
    remedy = "leave the training to the runner" if isinstance(value, nn.Module) else "or return training unchanged"
    raise TechniqueError(f"{technique} must return training.using(…) from finetune, found {_kind(value)}; {remedy}")


def require_params(technique: Plugin, value: Any) -> Params:
    """Return the return value of `resolve`, which must be params of the technique."""
    wanted = technique.params_class
    if not isinstance(value, wanted):
        remedy = 'return params.model_copy(update={"…": …})'
        raise TechniqueError(f"{technique} must return its Params from resolve, found {_kind(value)}; {remedy}")
    return value


def _kind(value: Any) -> str:
    return type(value).__name__
