"""Number of parameters, and how many of them are not zero."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from toolkit.eval_mode import in_eval_mode
from toolkit.masks import named_weights
from toolkit.metrics.support.metric import COUNT, EXACT, FRACTION, Metric, Quantity
from toolkit.number_text import count_text, percent, plain
from toolkit.replacements import Replacement, replaced_layers


@torch.no_grad()
def counts(model: nn.Module) -> dict[str, float]:
    """Count the parameters as the layers see them, so that masking or replacing a layer preserves their number.

    A masked weight counts once, with the zeros of its mask. A tensor that several layers share counts once, and its
    entry is zero if all of them see zero. A replaced layer counts with the weight and bias that it stands for. Buffers,
    such as running means, are not parameters.

    Returns:
        `parameters` and `nonzero`, ints, and `sparsity`, the fraction of zeros among all parameters (0 for a model
        without parameters).
    """
    nonzero: dict[Hashable, Tensor] = {}
    with in_eval_mode(model):
        for identity, value in _values(model):
            known = nonzero.get(identity)
            nonzero[identity] = value != 0 if known is None else known | (value != 0)
    parameters = sum(entries.numel() for entries in nonzero.values())
    remaining = sum(int(entries.sum()) for entries in nonzero.values())
    return {
        "parameters": parameters,
        "nonzero": remaining,
        "sparsity": 1 - remaining / parameters if parameters else 0.0,
    }


def _values(model: nn.Module) -> Iterator[tuple[Hashable, Tensor]]:
    """Yield the tensors that the layers see, each with a key that is equal for layers that share the tensor.

    Keys contain tensors, which are compared and hashed by identity. As keys they stay alive, so that no later tensor
    gets the identity of an earlier one.
    """
    inside: set[nn.Module] = set()
    for layer in replaced_layers(model):
        inside.update(layer.module.modules())
        yield from _values_of_replaced(layer)
    for named in named_weights(model):
        if named.module not in inside:
            value = named.value
            yield (named.parameter, value.shape), value


def _values_of_replaced(layer: Replacement) -> Iterator[tuple[Hashable, Tensor]]:
    """Yield the tensors of a replaced layer with their keys.

    The key of a stored tensor, such as a bias, is the tensor. The key of a computed one, such as a dequantized weight,
    is the set of the layer's other tensors, or the layer if it stores them elsewhere.
    """
    tensors = layer.tensors
    own = {*layer.module.parameters(), *layer.module.buffers()}
    stored = own.intersection(tensors.values())
    computed = [name for name, tensor in tensors.items() if tensor not in stored]
    source: Hashable = frozenset(own - stored) or layer.module
    for name, tensor in tensors.items():
        if name not in computed:
            yield (tensor, tensor.shape), tensor
        elif len(computed) == 1:
            yield (source, tensor.shape), tensor
        else:
            yield (source, name), tensor


METRIC = Metric(
    lambda subject: counts(subject.model),
    (
        Quantity("parameters", plain, "number of parameters", bounds=COUNT, comparison=EXACT),
        Quantity(
            "sparsity",
            partial(percent, digits=0),
            "fraction of the parameters that are zero",
            title="zeros",
            dispensable=97,
            bounds=FRACTION,
            comparison=None,  # `nonzero` has the exact number
        ),
        Quantity(
            "nonzero",
            plain,
            "number of parameters that are not zero",
            better="lower",
            title="nonzero",
            cell=count_text,
            dispensable=98,
            bounds=COUNT,
            comparison=EXACT,
        ),
    ),
    order=20,
    place=60,
)
