"""Base classes for the tables of a recipe: frozen, strict pydantic models."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of a recipe. Unknown keys, wrong types, NaN and infinities are errors; values are never converted."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        arbitrary_types_allowed=True,
    )


class Params(Table):
    """The settings of a technique or a run-wide plugin; subclass it as `Params` in the plugin's module.

    Give every field a default, a range and a description: `toolkit techniques NAME` lists them, and recipes are checked
    against them before anything runs. A field of type `toolkit.Source` is a model for the same task; it is built once
    before the baseline trains, to check that it can be built and that its outputs have the right shape.
    """

    @property
    def replaces_model(self) -> bool:
        """Whether `optimize` returns a different model, which need not preserve what earlier stages achieved."""
        return False

    @property
    def trainable_after(self) -> bool:
        """Whether the model that the stage ends with can be trained later."""
        return True

    @property
    def trainable_in_stage(self) -> bool:
        """Whether the model that `optimize` returns can be trained by this stage, even if `finish` ends that."""
        return self.trainable_after

    @property
    def needs_finetune(self) -> bool:
        """Whether the technique has no effect unless its stage has a `finetune` table."""
        return False

    @property
    def asks_timer(self) -> bool:
        """Whether a technique that takes a timer asks it: the result then depends on the runtime and the batch size."""
        return True
