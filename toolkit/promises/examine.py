"""The comparison of a model with its promises: which remain, which are broken, and which have ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit.promises import Kind, Promises, kinds_of
from toolkit.promises.fingerprint import Change
from toolkit.replacements import replaced_layers


@dataclass
class Examined:
    """The promises of a model after a stage.

    Attributes:
        remaining: promises that later stages must preserve, without what is broken already.
        broken: changes that break a promise, by the words that begin the sentence about them.
        ended: promises whose layer was removed or whose weight has a different shape.
    """

    remaining: Promises = field(default_factory=Promises)
    broken: dict[str, list[Change]] = field(default_factory=dict)
    ended: Promises = field(default_factory=Promises)


@torch.no_grad()
def examine(promises: Promises, model: nn.Module) -> Examined:
    """Compare a model with the promises about it."""
    result = Examined()
    promises = promises.under(promises.prefix_in(model))
    kinds = kinds_of(model) if promises.kinds else {}
    for path, kind in promises.kinds.items():
        _examine_kind(result, path, kind, kinds.get(path))
    values = _values(model) if promises.zeros else {}
    for path, makers in promises.zeros.items():
        for maker, zeros in makers.items():
            _examine_zeros(result, path, maker, zeros, values.get(path))
    return result


def listed(promises: Promises) -> list[Change]:
    """Return a row for every promise, by layer."""
    kinds = [Change(path, str(kind), "") for path, kind in promises.kinds.items()]
    counted = ((path, sum(int(zeros.sum()) for zeros in makers.values())) for path, makers in promises.zeros.items())
    return kinds + [Change(path, f"{zeros} zeros", "") for path, zeros in counted]


def summary(promises: Promises) -> str:
    """Summarize the promises: `zeros in 2 weights, Int8Linear of float32 and int8 in 1 layer`."""
    zeros = [f"zeros in {_counted(len(promises.zeros), 'weight')}"] if promises.zeros else []
    kinds = Counter(str(kind) for kind in promises.kinds.values())
    return ", ".join([*zeros, *(f"{kind} in {_counted(count, 'layer')}" for kind, count in kinds.items())])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _examine_kind(result: Examined, path: str, before: Kind, now: Kind | None) -> None:
    if now is None:
        result.ended.kinds[path] = before
    elif before.is_preserved_by(now):
        result.remaining.kinds[path] = replace(now, maker=before.maker)
    else:
        change = Change(path, str(before), str(now))
        result.broken.setdefault(f"undid the work of {before.maker} in", []).append(change)


def _examine_zeros(result: Examined, path: str, maker: str, zeros: Tensor, value: Tensor | None) -> None:
    if value is None or value.shape != zeros.shape:
        result.ended.zeros.setdefault(path, {})[maker] = zeros
        return
    zeros = zeros.to(value.device)
    remaining = zeros & (value == 0)
    before, after = int(zeros.sum()), int(remaining.sum())
    if after < before:
        change = Change(path, f"{before} zeros", f"{after} zeros")
        result.broken.setdefault(f"refilled zeros that {maker} made in", []).append(change)
    if after:
        result.remaining.zeros.setdefault(path, {})[maker] = zeros if after == before else remaining


def _values(model: nn.Module) -> dict[str, Tensor]:
    """Return every weight as its layer sees it, by path, including those of replaced layers."""
    values = {weight.path: weight.value for weight in masks.named_weights(model)}
    for layer in replaced_layers(model):
        values.update({f"{layer.path}.{name}".lstrip("."): tensor for name, tensor in layer.tensors.items()})
    return values
