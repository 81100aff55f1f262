"""The recipe as it was run: every default written out, and whatever was chosen here instead of `auto`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w

from toolkit.recipe import Recipe
from toolkit.training import TrainingSettings


def resolved_recipe(recipe: Recipe, threads: int, device: str, trainings: Mapping[int, TrainingSettings]) -> str:
    """TOML that repeats the run: `trainings` by stage number (0 for the baseline) replace those of the recipe."""
    resolved = recipe.table.model_copy(update={"threads": threads, "device": device})
    content = resolved.model_dump(by_alias=True, exclude_none=True)
    for number, settings in trainings.items():
        table, key = (content["model"], "training") if number == 0 else (content["stages"][number - 1], "finetune")
        table[key] = settings.model_dump(exclude_none=True)
    for table in (content, content["model"], content["data"], *content["stages"]):
        _drop_empty(table)
    return tomli_w.dumps(content)


def _drop_empty(table: dict[str, Any]) -> None:
    """Leave out the tables and lists of a table that are empty, which they are by default; not what is in them."""
    # But for the arguments of one split: that there are any, though none, says that there is such a split.
    for key in [key for key, value in table.items() if value in ({}, []) and key not in ("train_args", "test_args")]:
        del table[key]
