"""The later stages that build on a stage's result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from toolkit.recipe.read import Stage


def successors(stages: Sequence[Stage], stage: Stage) -> Iterator[Stage]:
    """Yield the later stages whose model descends from that of `stage`, in the order of the recipe.

    A stage that replaces the model, as a student does, is none of them, nor are the stages after it.
    """
    rows = {stage.number}
    for later in stages[stage.number :]:
        if later.start in rows and not any(use.params.replaces_model for use in later.uses):
            rows.add(later.number)
            yield later
