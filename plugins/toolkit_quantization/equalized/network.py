"""Equalization of a whole model, in place: what it computes stays the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import Data, Note, TechniqueError, masks
from toolkit_quantization.arithmetic import no_fused_paths
from toolkit_quantization.calibration_samples import calibration_batches
from toolkit_quantization.equalized.chains import CONVOLUTIONS, NORMS, BrokenError, Chain
from toolkit_quantization.equalized.parts import traced_parts, transformer_chains
from toolkit_quantization.equalized.scales import Between, largest_inputs, over_rows, settled, smoothing, times_inputs


class Equalization(NamedTuple):
    """How many layers take channels whose scales were moved, and a table of all layers, with reasons."""

    layers: int
    note: Note


@torch.no_grad()
def equalize(model: nn.Module, layers: Collection[str], data: Data, samples: int) -> Equalization:
    """Move the scales of channels between layers, in place, wherever the inputs of one of `layers` are rounded.

    Between two layers the ranges of weights become equal. Between a norm and the layers behind it, outliers of the
    activations move into the weights.

    Args:
        model: in float; it may contain static networks.
        layers: those whose inputs will be rounded, by path.
        data: its train split is read.
        samples: how many of its samples, spread evenly over the split.
    """
    chains, reasons = find_chains(model, layers)
    between = [chain for chain in chains if not isinstance(model.get_submodule(chain.source), NORMS)]
    weights = {weight.path: weight.value for weight in masks.named_weights(model)}
    for chain, factors in zip(between, settled(weights, list(map(_pair, between))), strict=True):
        scale_along(model, chain, factors)
    behind_norms = [chain for chain in chains if chain not in between]
    for chain, ranges in zip(behind_norms, _activations(model, behind_norms, data, samples), strict=True):
        weights = {weight.path: weight.value for weight in masks.named_weights(model)}
        scale_along(model, chain, smoothing(ranges, largest_inputs(weights, _pair(chain)).float()))
    return _described(chains, reasons)


def find_chains(model: nn.Module, layers: Collection[str]) -> tuple[list[Chain], dict[str, str]]:
    """Return the chains that end at any of the layers, and why the others have none."""
    fixed = _fixed(model)
    chains: dict[str, Chain] = {}
    reasons = dict.fromkeys(layers, "it is in no part of the network that can be traced")
    for layer, chain in _candidates(model, layers):
        if isinstance(chain, str):
            reasons[layer] = chain
        elif reason := next(filter(None, map(fixed.get, [chain.source, *chain.takers])), None):
            reasons[layer] = reason
        else:
            chains[chain.source] = chain
    ends = {layer for chain in chains.values() for layer in chain.takers}
    return list(chains.values()), {layer: reason for layer, reason in reasons.items() if layer not in ends}


def _candidates(model: nn.Module, layers: Collection[str]) -> Iterator[tuple[str, Chain | str]]:
    for part in traced_parts(model):
        for layer in part.layers():
            if layer in layers:
                try:
                    yield layer, part.into(layer)
                except BrokenError as error:
                    yield layer, str(error)
    yield from ((layer, chain) for layer, chain in transformer_chains(model) if layer in layers)


def _fixed(model: nn.Module) -> dict[str, str]:
    """Return why the weights of some layers cannot be scaled, by layer."""
    owners = Counter(id(weight.parameter) for weight in masks.named_weights(model))
    reasons = {}
    for path, module in model.named_modules():
        weights = [each for each in masks.named_weights(module) if "." not in each.path]
        if any(owners[id(weight.parameter)] > 1 for weight in weights):
            reasons[path] = f"the weight of '{path}' is shared"
        elif any(_is_computed(weight) for weight in weights):
            reasons[path] = f"the weight of '{path}' has a parametrization that is no mask"
    return reasons


def _is_computed(weight: masks.Weight) -> bool:
    if not parametrize.is_parametrized(weight.module, weight.attribute):
        return False
    lists: Any = weight.module.parametrizations
    return not all(isinstance(part, masks.Mask) for part in lists[weight.attribute])


def _pair(chain: Chain) -> Between:
    inputs = [each._replace(path=f"{layer}.{each.path}") for layer, each in chain.takers.items()]
    return Between(f"{chain.source}.weight", tuple(inputs))


def scale_along(model: nn.Module, chain: Chain, factors: Tensor) -> None:
    """Scale the tensors below the masks, whose zeros stay zeros."""
    for weight in masks.named_weights(model.get_submodule(chain.source)):
        weight.parameter.copy_(over_rows(weight.parameter, factors))
    for layer, inputs in chain.takers.items():
        tensors = {weight.path: weight.parameter for weight in masks.named_weights(model.get_submodule(layer))}
        tensors[inputs.path].copy_(times_inputs(tensors[inputs.path], factors, inputs.groups))


def _activations(model: nn.Module, chains: Sequence[Chain], data: Data, samples: int) -> list[Tensor]:
    """Return the largest absolute value of each channel that a chain gives, (channels,), on samples of train."""
    ranges = [torch.zeros(model.get_parameter(f"{chain.source}.weight").shape, device=data.device) for chain in chains]
    with ExitStack() as undo:
        undo.enter_context(no_fused_paths())
        for chain, largest in zip(chains, ranges, strict=True):
            layer = model.get_submodule(next(iter(chain.takers)))
            undo.callback(layer.register_forward_pre_hook(_widening(largest)).remove)
        for batch in calibration_batches(data, samples) if chains else ():
            data.task.forward(model.eval(), batch)
    for chain, largest in zip(chains, ranges, strict=True):
        if not largest.isfinite().all():
            raise TechniqueError(f"the activations behind '{chain.source}' are not finite on the calibration samples")
    return ranges


def _widening(largest: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Return a hook that raises `largest` (channels,), in place, to the largest inputs of a layer."""

    def see(layer: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0].detach().float().abs()
        if isinstance(layer, CONVOLUTIONS):
            values = values.movedim(-1 - len(layer.kernel_size), -1)
        by_channel = values.reshape(-1, len(largest), values.shape[-1] // len(largest))
        torch.maximum(largest, by_channel.amax(dim=(0, 2)), out=largest)

    return see


def _described(chains: Sequence[Chain], reasons: Mapping[str, str]) -> Equalization:
    sources = {layer: chain.source for chain in chains for layer in chain.takers}
    moved = [{"layer": layer, "scales moved from": source, "reason": None} for layer, source in sources.items()]
    kept = [{"layer": layer, "scales moved from": None, "reason": reason} for layer, reason in reasons.items()]
    text = f"scales of {len(moved)} layers moved from the layer before them, of {len(kept)} not"
    return Equalization(len(moved), Note(text, [*moved, *kept]))
