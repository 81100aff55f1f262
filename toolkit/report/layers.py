"""The layers of a model as stored: class, weights, zeros, precision, bytes and a histogram."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit.masks import named_weights
from toolkit.replacements import replaced_layers
from toolkit.report.details import Histogram, Layer

BINS = 41  # odd: small weights of both signs share the middle bin


@torch.no_grad()
def layers_of(model: nn.Module) -> list[Layer]:
    """Return the layers with weights, in the order of the model; a shared tensor belongs to its first layer."""
    layers = {layer.layer: layer for layer in (*_plain(model), *_replaced(model))}
    order = {path: place for place, (path, _) in enumerate(model.named_modules())}
    return sorted(layers.values(), key=lambda layer: order.get(layer.layer, len(order)))


def histogram(weights: Tensor) -> Histogram | None:
    """Return the distribution of all finite nonzero entries; None if there are none."""
    values = weights.detach().float().flatten().cpu()
    values = values[(values != 0) & values.isfinite()]
    if not len(values):
        return None
    limit = float(values.abs().max())
    return Histogram(limit=limit, counts=[int(count) for count in torch.histc(values, BINS, -limit, limit)])


def _plain(model: nn.Module) -> Iterator[Layer]:
    inside = {part for layer in replaced_layers(model) for part in layer.module.modules()}
    seen: set[int] = set()
    tensors: dict[str, tuple[nn.Module, list[Tensor]]] = {}
    for weight in named_weights(model):
        if weight.module not in inside and id(weight.parameter) not in seen:
            seen.add(id(weight.parameter))
            path = weight.path.rpartition(".")[0]
            tensors.setdefault(path, (weight.module, []))[1].append(weight.value)
    for path, (module, values) in tensors.items():
        kind = parametrize.type_before_parametrizations(module).__name__
        yield _layer(path, kind, _matrices(values), values)


def _replaced(model: nn.Module) -> Iterator[Layer]:
    for layer in replaced_layers(model):
        stored = [*layer.module.parameters(), *layer.module.buffers()]
        kind = f"{type(layer.module).__name__} for {layer.replaces}"
        entry = _layer(layer.path, kind, [*layer.weights.values()], stored)
        yield entry if layer.precision is None else entry.model_copy(update={"precision": layer.precision})


def _layer(path: str, kind: str, weights: Sequence[Tensor], stored: Iterable[Tensor]) -> Layer:
    stored = list(stored) or list(weights)
    largest = max(stored, key=lambda tensor: tensor.numel())
    return Layer(
        layer=path,
        kind=kind,
        weights=sum(weight.numel() for weight in weights),
        zeros=sum(int((weight == 0).sum()) for weight in weights),
        precision=str(largest.dtype).removeprefix("torch."),
        size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored),
        histogram=histogram(torch.cat([weight.detach().float().flatten() for weight in weights])),
    )


def _matrices(values: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the weights without biases, which are not pruned; all tensors if every one has a single dimension."""
    return [value for value in values if value.dim() > 1] or values
