"""A model in the state in which it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

from toolkit.masks import folded


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has the mode it had, also where they differ."""
    modes = [(module, module.training) for module in model.modules()]
    if not any(was_training for _, was_training in modes):
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        # Through train(), because some modules do more in it than to set the flag; then one by one.
        model.train(training)
        for module, was_training in modes:
            module.training = was_training


@contextmanager
def as_deployed(model: nn.Module) -> Iterator[nn.Module]:
    """The model as it runs once it is saved: in eval mode, and if weights are parametrized a plain copy.

    Multiplying by masks is a cost of training on, not of the artifact, in which they are folded.
    """
    with in_eval_mode(model):
        if any(parametrize.is_parametrized(module) for module in model.modules()):
            with torch.no_grad():
                model = folded(model)
        yield model
