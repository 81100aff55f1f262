"""What a model consists of, place by place: taken before and after a hook, it shows what the hook changed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Change(NamedTuple):
    """One layer or tensor that is not what it was, and what it was and is in a reader's words."""

    layer: str
    before: str
    after: str


class Part(NamedTuple):
    """A module or a tensor: what a reader is told of it, and the checksum of its content."""

    text: str
    checksum: int = 0


Fingerprint: TypeAlias = Mapping[str, Part]


def fingerprint(model: nn.Module) -> Fingerprint:
    """The modules of a model with their mode, and its parameters and buffers with their content, by path.

    A checksum takes a few milliseconds for every 10 MB, and no memory, which copies to compare with would.
    """
    parts = {path: Part(_kind(module)) for path, module in model.named_modules()}
    tensors = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {**parts, **{path: Part(_text(tensor), _checksum(tensor)) for path, tensor in tensors}}


def changes(before: Fingerprint, after: Fingerprint) -> Iterator[Change]:
    """Every difference between two fingerprints of one model."""
    for path in dict.fromkeys([*before, *after]):
        old, new = before.get(path, Part("not there")), after.get(path, Part("not there"))
        if old != new:
            yield Change(_readable(path), old.text, new.text if new.text != old.text else "the same with other values")


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
    # As good as a longer one where nobody wants to deceive, and several times as fast.
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _readable(path: str) -> str:
    """`fc.weight` for what a parametrization keeps of it under `fc.parametrizations.weight.original`."""
    return re.sub(r"\bparametrizations\.(\w+)\b.*", r"\1", path) or "the whole model"
