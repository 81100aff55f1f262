"""The resolved recipe: all defaults written out, and each `auto` replaced by the value that was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from toolkit.params import Table
from toolkit.recipe.read import Recipe
from toolkit.training import TrainingSettings


def resolved_recipe(
    recipe: Recipe,
    threads: int,
    device: str,
    trainings: Mapping[int, TrainingSettings],
    params: Mapping[int, Sequence[dict[str, Any] | None]] | None = None,
) -> str:
    """Return TOML that repeats the run, with the chosen values in place of the recipe's.

    Args:
        recipe: recipe that was run.
        threads: number of CPU threads.
        device: type of the device.
        trainings: settings of each training, by stage number; 0 is the baseline.
        params: resolved params of each technique, by stage number; None if they equal the recipe's.
    """
    content = as_table(recipe.table.model_copy(update={"threads": threads, "device": device}))
    for number, settings in trainings.items():
        table, key = (content["model"], "training") if number == 0 else (content["stages"][number - 1], "finetune")
        table[key] = settings.model_dump(exclude_none=True)
    for number, chosen in (params or {}).items():
        uses = [content["stages"][number - 1], *content["stages"][number - 1]["with"]] if number else []
        for use, table in zip(uses, chosen, strict=False):
            if table is not None:
                use["params"] = table
    for table in (content, content["model"], content["data"], *content["stages"], *content["exports"]):
        _drop_empty(table)
    return tomli_w.dumps(content)


def as_table(table: Table) -> dict[str, Any]:
    """Return the content of a table with the keys that a recipe uses."""
    return table.model_dump(by_alias=True, exclude_none=True)


def _drop_empty(table: dict[str, Any]) -> None:
    """Remove empty tables and lists, which are defaults; leave nested ones alone."""
    # An empty train_args or test_args stays: its presence says that the split exists.
    for key in [key for key, value in table.items() if value in ({}, []) and key not in ("train_args", "test_args")]:
        del table[key]
