"""Numbers that plugins measure, by full name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import TechniqueError
from toolkit.hooks.loading import Plugin
from toolkit.recipe.read import PluginUse
from toolkit.report.described_numbers import plugin_and_name, plugin_keys
from toolkit.rows import Note, Number, Plot, Row

TEXTS = {"label", "explanation"}


def named_measures(use: PluginUse, model: nn.Module, data: Data, prepared: Any) -> dict[str, Any]:
    """Call `measure` and return its numbers and notes as `<technique>.<name>`.

    Raises:
        TechniqueError: `measure` returned anything else.
    """
    technique = use.plugin
    if not technique.implements("measure"):
        return {}
    with torch.no_grad():
        values = technique.call("measure", model=model, params=use.params, data=data, prepared=prepared)
    if values is None:
        return {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise TechniqueError(f"{technique} must return a dictionary of numbers and Notes from measure, found {kind}")
    return {f"{technique.name}.{name}": _checked(technique, name, value) for name, value in values.items()}


def named_measures_of_files(use: PluginUse, folder: Path) -> dict[str, Any]:
    """Call a runtime's `measure` on the files that it wrote; return `{"<runtime>.<name>": number or Note}`."""
    if not use.plugin.implements("measure"):
        return {}
    values = use.plugin.call("measure", folder=folder, params=use.params) or {}
    return {f"{use.plugin.name}.{name}": _checked(use.plugin, name, value) for name, value in values.items()}


def descriptions(rows: Sequence[Row], uses: Iterable[PluginUse]) -> dict[str, Number]:
    """Return what the numbers of plugins in some rows mean, by name, as far as the plugins declare it."""
    declared = {use.plugin.name: use.plugin.numbers for use in uses}
    found: dict[str, Number] = {}
    for key in dict.fromkeys(key for row in rows for key in plugin_keys(row)):
        plugin, name = plugin_and_name(key)
        if (number := description_of(declared.get(plugin, {}), name)) is not None:
            found[key] = number
    return found


def description_of(declared: Mapping[str, Number], name: str) -> Number | None:
    """Return the description of a name; `*` in a declared name stands for any text, in label and explanation as well.

    A description of exactly this name comes before those with `*`.
    """
    if name in declared:
        return declared[name]
    for pattern, number in declared.items():
        if matched := re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)", 1), name):
            texts = {key: text.replace("*", matched[1]) for key, text in number.model_dump(include=TEXTS).items()}
            return number.model_copy(update=texts)
    return None


def _checked(technique: Plugin, name: str, value: Any) -> float | int | Note | None:
    if isinstance(value, Note):
        rows = [{str(key): _cell(cell) for key, cell in row.items()} for row in value.table]
        return Note(str(value.text), rows, _checked_plot(technique, name, value, rows))
    value = _cell(value)
    if isinstance(value, (int, float)) or value is None:
        return value
    kind = type(value).__name__
    raise TechniqueError(f"{technique} must return numbers and Notes from measure, found {kind} for '{name}'")


def _checked_plot(technique: Plugin, name: str, note: Note, rows: list[dict[str, Any]]) -> Plot | None:
    if note.plot is None:
        return None
    columns = list(dict.fromkeys(key for row in rows for key in row))
    missing = [column for column in note.plot.columns if column not in columns]
    if missing and rows:
        raise TechniqueError(
            f"{technique} draws the note '{name}' with an unknown column {missing[0]!r}; known: {', '.join(columns)}"
        )
    return note.plot


def _cell(value: Any) -> Any:
    """Return a number or text for JSON: None for NaN and infinity, and text for anything that is not a number."""
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, Real) or (hasattr(value, "__float__") and getattr(value, "size", 1) != 0):
        with suppress(TypeError, ValueError, RuntimeError):  # a tensor of more than one element
            return float(value) if math.isfinite(float(value)) else None
    return str(value)
