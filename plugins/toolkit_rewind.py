"""Rewind: resets the remaining weights to their values early in training; pruned weights stay pruned.

As in Frankle and Carbin, "The lottery ticket hypothesis: finding sparse, trainable neural networks", ICLR 2019. The
weights go back to the recipe's baseline. If that was trained for a few steps, this is late rewinding, as in Frankle et
al., "Linear mode connectivity and the lottery ticket hypothesis", ICML 2020. As a control, draw the weights anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

import toolkit
from toolkit import hookimpl, masks

MAX_LISTED = 4
numbers = {
    "weights": toolkit.Number("weights left", "number of weights that no mask sets to zero"),
    "relative_distance": toolkit.Number("distance moved", "norm of what the weights moved by, relative to their norm"),
}


class Params(toolkit.Params):
    """What the weights are reset to."""

    to: Literal["reference", "random"] = Field(
        default="reference",
        description="the baseline's weights, or fresh ones from each layer's reset_parameters (as a control)",
    )


@dataclass
class Findings:
    """The baseline, and the numbers that `optimize` notes for the report."""

    reference: nn.Module
    values: dict[str, float] = field(default_factory=dict)


@hookimpl
def prepare(reference: nn.Module) -> Findings:
    """Keep the reference for `optimize`."""
    return Findings(reference)


@hookimpl
def optimize(model: nn.Module, params: Params, prepared: Findings) -> nn.Module:
    """Rewind every parameter and buffer, and note how far they moved."""
    before = {path: value.clone() for path, value in _weights(model).items()}
    rewind(model, prepared.reference if params.to == "reference" else redrawn(model))
    after, kept = _weights(model), masks.current(model)
    distance = _norm([after[path] - value for path, value in before.items()])
    prepared.values["weights"] = sum(int(kept.get(path, torch.ones_like(value)).sum()) for path, value in after.items())
    prepared.values["relative_distance"] = distance / (_norm([*before.values()]) or 1.0)
    return model


@hookimpl
def measure(prepared: Findings) -> dict[str, float]:
    """Return the number of weights that no mask sets to zero, and how far the weights moved, relative to their norm."""
    return prepared.values


@torch.no_grad()
def rewind(model: nn.Module, source: nn.Module) -> None:
    """Set the parameters and buffers of a model, in place, to those of the same name and shape in another one.

    Masks stay, and the tensors below them are set, so that zeros stay zero. A masked weight of the source is read as
    its layers see it.

    Raises:
        TechniqueError: the source lacks some of them, because the model has another architecture, or keeps weights in
            another form that would undo the rewinding, such as shared values.
    """
    ours = dict(_tensors(model))
    theirs = {**dict(_tensors(source)), **_weights(source, every=True)}
    missing = [name for name, tensor in ours.items() if name not in theirs or theirs[name].shape != tensor.shape]
    if missing:
        named = [*dict.fromkeys(_readable(model, name) for name in missing)]
        more = f" and {len(named) - MAX_LISTED} more" if len(named) > MAX_LISTED else ""
        raise toolkit.TechniqueError(
            f"there is nothing to rewind {', '.join(named[:MAX_LISTED])}{more} to: rewind before a stage that "
            "replaces the model or keeps its weights in another form, or start from an earlier row (from)"
        )
    for name, tensor in ours.items():
        tensor.copy_(theirs[name])


def redrawn(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU, without masks, whose layers have drawn new weights from the global generator.

    On the CPU, so that a seed gives the same weights on every device. Buffers of layers that draw nothing stay as they
    were.

    Raises:
        TechniqueError: a module has parameters and no `reset_parameters`.
    """
    fresh = masks.folded(model).cpu()
    for path, module in reversed(list(fresh.named_modules())):  # inner layers first, as they are built
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if reset is not None:
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            where = f"'{path}'" if path else "the model itself"
            raise toolkit.TechniqueError(
                f"the weights of {where} cannot be drawn anew: "
                f"add a method reset_parameters() to {type(module).__name__}"
            )
    return fresh


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, without masks, under the names that they have in an unmasked model."""
    modules = dict(model.named_modules(remove_duplicate=False))
    tensors = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    for name, tensor in tensors:
        path = name.rpartition(".")[0]
        owner = modules[path]
        if isinstance(owner, parametrize.ParametrizationList) and all(isinstance(part, masks.Mask) for part in owner):
            yield path.replace("parametrizations.", ""), tensor
        elif not isinstance(owner, masks.Mask):
            yield name, tensor


def _weights(model: nn.Module, every: bool = False) -> dict[str, Tensor]:
    """Return each parameter as its layers see it, by path; a shared one once, or under `every` name."""
    weights = {weight.path: weight for weight in masks.named_weights(model)}
    first = {id(weight.parameter): path for path, weight in reversed(weights.items())}
    return {path: weight.value for path, weight in weights.items() if every or first[id(weight.parameter)] == path}


def _readable(model: nn.Module, name: str) -> str:
    """`fc.weight (Shared)` for what a parametrization of that class keeps of it under a name of its own."""
    match: Any = re.fullmatch(r"((?:.*\.)?)parametrizations\.(\w+)\..*", name)
    if match is None:
        return name
    parts: Any = model.get_submodule(f"{match[1]}parametrizations.{match[2]}")
    kinds = dict.fromkeys(type(part).__name__ for part in parts if not isinstance(part, masks.Mask))
    return f"{match[1]}{match[2]} ({', '.join(kinds)})"


def _norm(tensors: list[Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5
