"""The recipe as it was run: every default written out, and whatever was chosen here instead of `auto`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w

from toolkit.recipe import Recipe
from toolkit.training import TrainingSettings


def resolved_recipe(recipe: Recipe, threads: int, device: str, trainings: Mapping[int, TrainingSettings]) -> str:
    """TOML that repeats the run: `trainings` by stage number (0 for the baseline) replace those of the recipe."""
    content = recipe.table.model_dump(by_alias=True, exclude_none=True)
    content.update(threads=threads, device=device)
    for number, settings in trainings.items():
        table, key = (content["model"], "training") if number == 0 else (content["stages"][number - 1], "finetune")
        table[key] = settings.model_dump(exclude_none=True)
    return tomli_w.dumps(_without_empty(content))


def _without_empty(value: Any) -> Any:
    """Tables without their empty tables and lists, which say nothing."""
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in ({}, [])}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value
