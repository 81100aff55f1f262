"""A model in the state in which it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

from toolkit.eval_mode import in_eval_mode
from toolkit.masks import folded


@contextmanager
def as_deployed(model: nn.Module) -> Iterator[nn.Module]:
    """Return the model as it runs once it is saved: in eval mode, and if weights are parametrized a plain copy.

    Multiplying by masks is a cost of training on, not of the artifact, in which they are folded.
    """
    with in_eval_mode(model):
        if any(parametrize.is_parametrized(module) for module in model.modules()):
            with torch.no_grad():
                model = folded(model)
        yield model
