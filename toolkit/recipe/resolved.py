"""The recipe as it was run: every default written out, and whatever was chosen here instead of `auto`."""

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
    """TOML that repeats the run: what was chosen replaces what the recipe says, by number of the stage.

    Args:
        recipe: what was run.
        threads: of the processor.
        device: its type.
        trainings: how it was trained; 0 stands for the baseline.
        params: of every technique of a stage, None where they are the recipe's.
    """
    content = as_table(recipe.table.model_copy(update={"threads": threads, "device": device}))
    for number, settings in trainings.items():
        table, key = (content["model"], "training") if number == 0 else (content["stages"][number - 1], "finetune")
        table[key] = settings.model_dump(exclude_none=True)
    for number, chosen in (params or {}).items():
        steps = [content["stages"][number - 1], *content["stages"][number - 1]["with"]] if number else []
        for step, table in zip(steps, chosen, strict=False):
            if table is not None:
                step["params"] = table
    for table in (content, content["model"], content["data"], *content["stages"], *content["exports"]):
        _drop_empty(table)
    return tomli_w.dumps(content)


def as_table(table: Table) -> dict[str, Any]:
    """What a table holds, as a recipe writes it."""
    return table.model_dump(by_alias=True, exclude_none=True)


def _drop_empty(table: dict[str, Any]) -> None:
    """Leave out the tables and lists of a table that are empty, which they are by default; not what is in them."""
    # But for the arguments of one split: that there are any, though none, says that there is such a split.
    for key in [key for key, value in table.items() if value in ({}, []) and key not in ("train_args", "test_args")]:
        del table[key]
