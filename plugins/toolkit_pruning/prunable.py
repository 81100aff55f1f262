"""Which weights can be pruned, and the names that recipes and reports use for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

import toolkit
from toolkit import masks, patterns

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ONE_WEIGHT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def prunable_names(shared: Sequence[masks.Weight]) -> list[str]:
    """Return the names of one tensor as something to prune; none if it cannot be pruned.

    A layer with one weight goes by the layer's name, such as `fc`; in other layers each weight goes by its own, such as
    `lstm.weight_hh_l0`.
    """
    names = []
    for weight in shared:
        if isinstance(weight.module, ONE_WEIGHT) and weight.attribute == "weight":
            names.append(weight.path.rpartition(".")[0])
        elif _is_one_of_several(weight.module, weight.attribute):
            names.append(weight.path)
    return names


def _is_one_of_several(module: nn.Module, attribute: str) -> bool:
    if isinstance(module, RECURRENT):
        return attribute.startswith("weight_")
    # The projections of queries, keys and values; that of the outputs is a linear layer inside.
    return isinstance(module, nn.MultiheadAttention) and attribute.endswith("proj_weight")


def only_weight(layer: str) -> str:
    """Return the path of the weight of a layer that has only one."""
    return f"{layer}.weight".lstrip(".")


def kind_of(weight: masks.Weight) -> str:
    """Return the class of the layer, without what masking makes of it."""
    kind: Any = parametrize.type_before_parametrizations(weight.module)
    return str(kind.__name__)


def inputs_of(weight: masks.Weight) -> tuple[int, int]:
    """Return the dimension of a weight that runs over the layer's inputs, and the number of inputs in a group."""
    module: Any = weight.module
    if isinstance(module, TRANSPOSED):
        return 0, module.in_channels // module.groups
    return 1, weight.value.shape[1]


def rows_of(weight: masks.Weight, values: Tensor) -> Tensor:
    """Return values of the weight's shape with a row for each output, (O, …); flat in any case."""
    module: Any = weight.module
    if isinstance(module, TRANSPOSED):
        values = values.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
    return values.flatten(1)


def match(names: Sequence[str], asked: Sequence[str]) -> bool:
    """Return whether a pattern matches one of the names, or the layer that a named weight belongs to."""
    return patterns.match(_with_layers(names), asked)


def check_patterns(names: Sequence[str], asked: Sequence[str]) -> None:
    """Raise a `TechniqueError` if the model has nothing to prune, or a pattern matches nothing."""
    if not names:
        raise toolkit.TechniqueError("the model has no linear, convolutional, recurrent or attention layer to prune")
    patterns.require_match(_with_layers(names), asked, names, "prunable layer")


def _with_layers(names: Sequence[str]) -> set[str]:
    return {*names, *(layer for layer, _, weight in (name.rpartition(".") for name in names) if "weight" in weight)}
