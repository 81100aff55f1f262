"""Whether a source builds a network that is trained already."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from toolkit.recipe.tables import ModelTable
from toolkit.seeding import preserve_generators


def is_pretrained(table: ModelTable) -> bool:
    """Return whether a model has weights of a file, or builds some of its matrices or filters to the same numbers.

    A network that is not trained draws them at random; only scales and shifts begin with constants.
    """
    if table.weights is not None:
        return True
    first, second = (_state(table, seed) for seed in (1, 2))
    return any(_is_learned(tensor) and torch.equal(tensor, second[name]) for name, tensor in first.items())


def _state(table: ModelTable, seed: int) -> dict[str, Tensor]:
    with preserve_generators():
        torch.manual_seed(seed)
        return dict(table.build().named_parameters())


def _is_learned(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and tensor.dim() > 1 and tensor.numel() > 1 and bool(tensor.min() != tensor.max())
