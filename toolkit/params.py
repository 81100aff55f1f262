"""Tables of a recipe as frozen, strict pydantic models: what they may contain, and what they tell the runner."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of a recipe: unknown keys, wrong types, NaN and infinities are errors; nothing is converted."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        arbitrary_types_allowed=True,
    )


class Params(Table):
    """The settings of a technique or a run-wide plugin: subclass it as `Params` in the plugin's module.

    Give every field a default, a range and a description: `toolkit techniques NAME` shows them, and recipes are
    checked against them before anything runs. Fields that are models are `toolkit.Source`: models for the same task,
    built before the baseline trains to see that they can be, and that their outputs have the right shape.
    """

    @property
    def replaces_model(self) -> bool:
        """Whether `optimize` returns another model, so that what earlier stages did to the old one ends here."""
        return False

    @property
    def trainable_after(self) -> bool:
        """Whether the model that `optimize` returns can be trained, in this stage or a later one."""
        return True

    @property
    def needs_finetune(self) -> bool:
        """Whether the technique does nothing unless its stage has a `finetune` table."""
        return False
