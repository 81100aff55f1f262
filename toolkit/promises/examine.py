"""Whether a model keeps what earlier stages achieved: the promises that are left, those broken, those that ended."""

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
    """What became of promises: those that later stages have to keep (what is broken is not held against them),
    those that were broken, by deed, and those whose layer is gone."""

    left: Promises = field(default_factory=Promises)
    broken: dict[str, list[Change]] = field(default_factory=dict)
    ended: Promises = field(default_factory=Promises)


@torch.no_grad()
def examine(promises: Promises, model: nn.Module) -> Examined:
    """Compare a model with what is promised of it."""
    kept = Examined()
    promises = promises.under(promises.prefix_in(model))
    kinds = kinds_of(model) if promises.kinds else {}
    for path, kind in promises.kinds.items():
        _examine_kind(kept, path, kind, kinds.get(path))
    values = _values(model) if promises.zeros else {}
    for path, makers in promises.zeros.items():
        for maker, zeros in makers.items():
            _examine_zeros(kept, path, maker, zeros, values.get(path))
    return kept


def listed(promises: Promises) -> list[Change]:
    """Each promise on its own, by layer."""
    kinds = [Change(path, str(kind), "") for path, kind in promises.kinds.items()]
    counted = ((path, sum(int(zeros.sum()) for zeros in makers.values())) for path, makers in promises.zeros.items())
    return kinds + [Change(path, f"{zeros} zeros", "") for path, zeros in counted]


def summary(promises: Promises) -> str:
    """All promises in a few words: `zeros in 2 weights, Int8Linear of float32 and int8 in 1 layer`."""
    zeros = [f"zeros in {_counted(len(promises.zeros), 'weight')}"] if promises.zeros else []
    kinds = Counter(str(kind) for kind in promises.kinds.values())
    return ", ".join([*zeros, *(f"{kind} in {_counted(count, 'layer')}" for kind, count in kinds.items())])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _examine_kind(kept: Examined, path: str, before: Kind, now: Kind | None) -> None:
    if now is None:
        kept.ended.kinds[path] = before
    elif before.is_kept_by(now):
        kept.left.kinds[path] = replace(now, maker=before.maker)
    else:
        change = Change(path, str(before), str(now))
        kept.broken.setdefault(f"undid what {before.maker} made of", []).append(change)


def _examine_zeros(kept: Examined, path: str, maker: str, zeros: Tensor, value: Tensor | None) -> None:
    if value is None or value.shape != zeros.shape:
        kept.ended.zeros.setdefault(path, {})[maker] = zeros
        return
    zeros = zeros.to(value.device)
    left = zeros & (value == 0)
    before, after = int(zeros.sum()), int(left.sum())
    if after < before:
        change = Change(path, f"{before} zeros", f"{after} zeros")
        kept.broken.setdefault(f"refilled zeros that {maker} made in", []).append(change)
    if after:
        kept.left.zeros.setdefault(path, {})[maker] = zeros if after == before else left


def _values(model: nn.Module) -> dict[str, Tensor]:
    """Every weight as its layer sees it, by path, those of replaced layers included."""
    values = {weight.path: weight.value for weight in masks.named_weights(model)}
    for layer in replaced_layers(model):
        values.update({f"{layer.path}.{name}".lstrip("."): tensor for name, tensor in layer.tensors.items()})
    return values
