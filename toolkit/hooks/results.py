"""Checks what a technique's hooks return, and tells the author where it is something else."""

from __future__ import annotations

from typing import Any

from torch import nn

from toolkit.errors import TechniqueError
from toolkit.hooks.loading import Plugin
from toolkit.params import Params
from toolkit.training import Training


def require_model(technique: Plugin, made: Any, hook: str = "optimize") -> nn.Module:
    """Return the return value of `optimize` or `finish`, which must be a model."""
    if isinstance(made, nn.Module):
        return made
    remedy = "return it alone" if isinstance(made, tuple) else "end it with 'return model'"
    raise TechniqueError(f"{technique} must return the model from {hook}, not {_kind(made)}: {remedy}")


def require_training(technique: Plugin, made: Any) -> Training:
    """Return the return value of `finetune`, which must be a training."""
    if isinstance(made, Training):
        return made
    remedy = "the runner does the training" if isinstance(made, nn.Module) else "or training unchanged"
    raise TechniqueError(f"{technique} must return training.using(…) from finetune, not {_kind(made)}: {remedy}")


def require_params(technique: Plugin, made: Any) -> Params:
    """Return the return value of `resolve`, which must be params of the technique."""
    wanted = technique.params_class
    if not isinstance(made, wanted):
        remedy = 'return params.model_copy(update={"…": …})'
        raise TechniqueError(f"{technique} must return its Params from resolve, not {_kind(made)}: {remedy}")
    return made


def _kind(made: Any) -> str:
    return type(made).__name__
