"""Checks across stages: the row that each starts from, and whether its model can be trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolkit.errors import Problem, did_you_mean
from toolkit.recipe.tables import StageTable


def stage_order_problems(tables: Sequence[Any], stages: Sequence[StageTable | None]) -> list[Problem]:
    """Return the mistakes that concern several stages.

    Args:
        tables: stages as written in the file.
        stages: the same stages after validation; None for each that is not valid by itself. Its name still counts.
    """
    names: list[Any] = ["baseline"]
    frozen_by: list[str | None] = [None]  # by row: technique that made the model untrainable
    problems: list[Problem] = []
    for number, (table, stage) in enumerate(zip(tables, stages, strict=True), start=1):
        table = table if isinstance(table, dict) else {}
        start = table.get("from", names[-1])
        if "from" in table and (problem := _start_problem(start, names)):
            problems.append(Problem(f"stages.{number}.from", problem))
        previous = frozen_by[names.index(start)] if "from" in table and start in names else frozen_by[-1]
        names.append(table.get("name") or table.get("technique"))
        frozen_by.append(_frozen_by(stage, previous))
        problems.extend(_training_problems(number, stage, _frozen_by(stage, previous, in_stage=True)))
    return [*problems, *_names_written_twice(tables)]


def export_problems(content: Mapping[str, Any]) -> list[Problem]:
    """Return the mistakes between exports and stages: unknown origins, and names that are given twice."""
    stages, exports = content.get("stages"), content.get("exports")
    if not isinstance(stages, list) or not isinstance(exports, list):
        return []
    names = ["baseline", *(table.get("name") or table.get("technique") for table in stages if isinstance(table, dict))]
    problems: list[Problem] = []
    taken = {name for name in names if isinstance(name, str)}
    for number, table in enumerate(table for table in exports if isinstance(table, dict)):
        if "from" in table and (problem := _start_problem(table["from"], names)):
            problems.append(Problem(f"exports.{number + 1}.from", problem))
        name = table.get("name") or table.get("runtime")
        if not isinstance(name, str):
            continue
        if name in taken:
            problems.append(Problem(f"exports.{number + 1}.name", f"'{name}' names a row already; choose another name"))
        taken.add(name)
    return problems


def _names_written_twice(tables: Sequence[Any]) -> Iterator[Problem]:
    """Yield a problem for each `name` that an earlier stage has; stages may share the name of their technique."""
    places: dict[str, str] = {}
    for number, table in enumerate(tables, start=1):
        name = table.get("name") if isinstance(table, dict) else None
        if not isinstance(name, str):
            continue
        place = f"stages.{number}.name"
        if name in places:
            yield Problem(place, f"must differ from {places[name]}, found '{name}' in both; choose a different name")
        places.setdefault(name, place)


def _start_problem(start: Any, names: Sequence[Any]) -> str | None:
    if not isinstance(start, str):
        return None  # wrong type, already reported
    if names.count(start) > 1:
        return f"must name one earlier stage, found several named '{start}'; set a different `name` for each"
    if start not in names:
        return f"must name an earlier stage, found '{start}'{did_you_mean(start, filter(_can_be_a_name, names))}"
    return None


def _can_be_a_name(value: Any) -> bool:
    """Return whether a value is short enough for a stage name: comparing much longer strings takes minutes."""
    return isinstance(value, str) and len(value) <= 80


def _frozen_by(stage: StageTable | None, previous: str | None, in_stage: bool = False) -> str | None:
    """Return what made the model untrainable after a stage or, with `in_stage`, for the training of the stage."""
    if stage is None:
        return None
    for use in (stage, *stage.others):
        if use.params.replaces_model:
            previous = None
        if not (use.params.trainable_in_stage if in_stage else use.params.trainable_after):
            previous = use.technique
    return previous


def _training_problems(number: int, stage: StageTable | None, frozen_by: str | None) -> list[Problem]:
    if stage is None:
        return []
    place = f"stages.{number}.finetune"
    if stage.finetune is not None:
        message = f"cannot train the model after {frozen_by}; train before it, or remove `finetune`"
        return [Problem(place, message)] if frozen_by else []
    after = f", but the model cannot be trained after {frozen_by}" if frozen_by else ""
    return [
        Problem(place, f"is missing: {use.technique} with these params needs training{after}")
        for use in (stage, *stage.others)
        if use.params.needs_finetune
    ]
