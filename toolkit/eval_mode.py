"""A model in eval mode for as long as it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is back in its own mode, even where the modes differ."""
    modes = [(module, module.training) for module in model.modules()]
    if not any(was_training for _, was_training in modes):
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        # Through train(), because some modules do more in it than set the flag; then one by one.
        model.train(training)
        for module, was_training in modes:
            module.training = was_training
