"""Fingerprints of models: compared before and after a hook, they show what the hook changed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit.tensor_memory import memory


class Change(NamedTuple):
    """A layer or tensor that changed, with a description of it before and after."""

    layer: str
    before: str
    after: str


class Part(NamedTuple):
    """A module or a tensor: its description, and a checksum of its content."""

    text: str
    checksum: int = 0


Fingerprint: TypeAlias = Mapping[str, Part]


def fingerprint(model: nn.Module) -> Fingerprint:
    """Return the modules of a model with their mode, and its parameters and buffers with their content, by path.

    A checksum takes a few milliseconds per 10 MB, and unlike a copy no memory.
    """
    parts = {path: Part(_kind(module)) for path, module in model.named_modules()}
    tensors = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {**parts, **{path: Part(_text(tensor), _checksum(tensor)) for path, tensor in tensors}}


def changes(before: Fingerprint, now: Fingerprint) -> Iterator[Change]:
    """Yield every difference between two fingerprints of one model."""
    for path in dict.fromkeys([*before, *now]):
        old, new = before.get(path, Part("missing")), now.get(path, Part("missing"))
        if old != new:
            after = new.text if new.text != old.text else "the same with different values"
            yield Change(_readable(path), old.text, after)


def _kind(module: nn.Module) -> str:
    kind = parametrize.type_before_parametrizations(module).__name__
    return f"{kind} in {'train' if module.training else 'eval'} mode"


@torch.no_grad()
def _text(tensor: Tensor) -> str:
    values = tensor.abs() if tensor.is_complex() else tensor
    frozen = "" if tensor.requires_grad or not isinstance(tensor, nn.Parameter) else "frozen "
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{frozen}{dtype} {tuple(tensor.shape)} of mean {float(values.float().mean()):.3g}"


def _checksum(tensor: Tensor) -> int:
    # Enough against accidents, and several times as fast as a longer checksum.
    return zlib.crc32(memory(tensor))


def _readable(path: str) -> str:
    """Return `fc.weight` for `fc.parametrizations.weight.original`, the tensor below a parametrization."""
    return re.sub(r"\bparametrizations\.(\w+)\b.*", r"\1", path) or "the whole model"
