"""How many parameters a model has, and how many of them are not zero."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from toolkit.eval_mode import in_eval_mode
from toolkit.masks import named_weights
from toolkit.metrics.support.metric import Metric, Quantity
from toolkit.number_text import count_text, percent
from toolkit.replacements import Replacement, replaced_layers


@torch.no_grad()
def counts(model: nn.Module) -> dict[str, float]:
    """Count the parameters as the layers see them: masking or replacing a layer leaves their number as it is.

    A masked weight counts once, with the zeros of its mask; a tensor that several layers share counts once,
    and an entry of it is zero if all of them see zero; a replaced layer counts with the weight and the bias
    it stands for. Buffers, such as running means, are not parameters.

    Returns:
        `parameters` and `nonzero`, ints, and `sparsity`, the fraction of zeros among all parameters, 0 if
        there are none.
    """
    nonzero: dict[Hashable, Tensor] = {}
    with in_eval_mode(model):
        for identity, value in _values(model):
            known = nonzero.get(identity)
            nonzero[identity] = value != 0 if known is None else known | (value != 0)
    parameters = sum(entries.numel() for entries in nonzero.values())
    left = sum(int(entries.sum()) for entries in nonzero.values())
    return {
        "parameters": parameters,
        "nonzero": left,
        "sparsity": 1 - left / parameters if parameters else 0.0,
    }


def _values(model: nn.Module) -> Iterator[tuple[Hashable, Tensor]]:
    """What the layers see, each with something that is equal for two layers if they share it.

    Tensors are compared and hashed by identity here, as optimizers do; as keys they also stay alive, so that
    no later one can get the identity of another.
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
    """A tensor that the layer keeps as it is, such as a bias, is known by itself; one that it makes, such as a weight
    of integers, by all that the layer makes its tensors of, or by the layer if it keeps that elsewhere."""
    tensors = layer.tensors
    own = {*layer.module.parameters(), *layer.module.buffers()}
    kept = own.intersection(tensors.values())
    made = [name for name, tensor in tensors.items() if tensor not in kept]
    source: Hashable = frozenset(own - kept) or layer.module
    for name, tensor in tensors.items():
        if name not in made:
            yield (tensor, tensor.shape), tensor
        elif len(made) == 1:
            yield (source, tensor.shape), tensor
        else:
            yield (source, name), tensor


METRIC = Metric(
    lambda subject: counts(subject.model),
    (
        Quantity("parameters", explanation="number of parameters", minimum=0),
        Quantity("sparsity", partial(percent, digits=0), "fraction of parameters that are zero", "zeros", 97, 0, 1),
        Quantity("nonzero", count_text, "number of parameters that are not zero", "nonzero", 98, 0),
    ),
    order=20,
    place=60,
)
