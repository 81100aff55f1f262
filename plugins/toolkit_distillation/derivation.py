"""Students that are derived from the model: narrower by channels, heads and hidden units, shallower by whole blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator
from torch import nn
from torch.nn.utils import parametrize

import toolkit
from toolkit import masks, patterns, structure
from toolkit.structure import Group, Structure


class Derived(toolkit.Params):
    """A student that is the stage's input with less of it."""

    model_config = ConfigDict(serialize_by_alias=True)

    start: Literal["input"] = Field(
        alias="from", description='the model to derive the student from: the one at the start of the stage ("input")'
    )
    width: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of its channels, heads and hidden units that each layer keeps; those with the smallest "
        "weights (l2) go",
    )
    depth: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the residual blocks that stay, of those that can go: the first, the last, and others "
        "evenly spaced",
    )
    exclude: list[str] = Field(
        default=[], description="name patterns of the modules to leave as they are, and of those that cannot be traced"
    )

    @model_validator(mode="after")
    def _is_smaller(self) -> Derived:
        if self.width == self.depth == 1:
            raise ValueError("a derived student needs a width or a depth below 1")
        return self


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "Derived" if {"from", "width", "depth"} & value.keys() and "source" not in value else "Source"
    return type(value).__name__ if value is None or isinstance(value, Derived) else "Source"


Student: TypeAlias = Annotated[
    Annotated[toolkit.Source, Tag("Source")] | Annotated[Derived, Tag("Derived")] | Annotated[None, Tag("NoneType")],
    Discriminator(_kind),
]
"""What a recipe says of a student; mistakes are those of the kind that it has keys of."""


def derive(model: nn.Module, choice: Derived, data: toolkit.Data) -> toolkit.Note:
    """Take blocks and channels out of a model, in place; return what was taken.

    Raises:
        TechniqueError: the model cannot be traced, or has nothing that can go.
    """
    rows = []
    if choice.depth < 1:
        gone = _gone_blocks(model, choice, data)
        structure.remove_blocks(model, gone, data)
        rows += [{"module": path, "before": "block", "now": "gone"} for path in gone]
    if choice.width < 1:
        analyzed = _analyzed(model, choice, data)
        norms, removed = _norms(analyzed, model), set[int]()
        for group in analyzed.groups:
            before = analyzed.width(group.name)
            kept = _kept(group, before, choice.width)
            ranked = sorted(group.units, key=lambda unit: (norms[unit], unit))
            removed.update(ranked[: len(ranked) - kept])
            now = group.staying + kept * group.width
            rows += [{"module": path, "before": str(before), "now": str(now)} for path in group.layers]
        if not removed:
            raise toolkit.TechniqueError(f"width = {choice.width:g} removes no channel of the student; lower it")
        structure.remove(model, analyzed, removed, data)
    return toolkit.Note("channels of each layer of the student, and the blocks that it lacks", rows)


def draw_anew(model: nn.Module) -> None:
    """Draw all weights anew, in place, by the `reset_parameters` of each layer.

    Raises:
        TechniqueError: a module with parameters has no such method, it replaces a layer of torch.nn, or something
            keeps its weights in shape.
    """
    for path, module in model.named_modules():
        is_other = parametrize.is_parametrized(module) or hasattr(module, "replaces")
        if not is_other and not any(True for _ in module.parameters(recurse=False)):
            continue
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if reset is None or is_other:
            raise toolkit.TechniqueError(
                f"{_named(path)} of kind {type(module).__name__} cannot draw its weights anew by reset_parameters; "
                "set initialize = true, or define that method"
            )
        reset()


def _named(path: str) -> str:
    return f"'{path}'" if path else "the network"


def _gone_blocks(model: nn.Module, choice: Derived, data: toolkit.Data) -> list[str]:
    blocks = [
        path
        for path in structure.residual_blocks(masks.folded(model).eval(), data)
        if not patterns.match(structure.with_parents(path), choice.exclude)
    ]
    if not blocks:
        raise toolkit.TechniqueError("depth needs residual blocks that can go, and the model has none; set width alone")
    count = max(1, round(choice.depth * len(blocks)))
    if count == len(blocks):
        raise toolkit.TechniqueError(f"depth = {choice.depth:g} keeps all {count} residual blocks; lower it")
    kept = set(evenly_spaced(len(blocks), count))
    return [path for place, path in enumerate(blocks) if place not in kept]


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` of the places from 0, with the first and, if there are two or more, the last."""
    return [0] if count == 1 else [round(place * (total - 1) / (count - 1)) for place in range(count)]


def _analyzed(model: nn.Module, choice: Derived, data: toolkit.Data) -> Structure:
    analyzed = structure.analyze(model, data, ["*"], choice.exclude)
    if not analyzed.groups:
        told = toolkit.patterns.reasons_text(analyzed.kept) or "the model has none"
        raise toolkit.TechniqueError(f"width needs a layer whose channels can go ({told})")
    return analyzed


def _kept(group: Group, channels: int, width: float) -> int:
    """Return how many units stay; a layer never loses all of its channels."""
    wanted = round((width * channels - group.staying) / group.width)
    return min(max(wanted, 0 if group.staying else 1), len(group.units))


def _norms(analyzed: Structure, model: nn.Module) -> Mapping[int, float]:
    """Return by unit the sum of its rows' Euclidean norms, each relative to the mean of its weight."""
    plain, norms = masks.folded(model), dict[int, float]()
    for slot in analyzed.slots:
        if slot.role == "output" and analyzed.is_weight(slot.path):
            rows = plain.get_parameter(slot.path).detach().movedim(slot.dim, 0).flatten(1).norm(dim=1)
            relative = rows / rows.mean().clamp(min=torch.finfo(rows.dtype).tiny)
            for unit, norm in zip(slot.units.tolist(), relative.tolist(), strict=True):
                norms[unit] = norms.get(unit, 0.0) + norm
    return norms
