"""The model as a run leaves it behind: which files, and whether it is made smaller before it is measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from toolkit import model_files as artifact
from toolkit.model_files.packed import pack, slimmed
from toolkit.patterns import match
from toolkit.recipe.tables import OutputTable


class Output:
    """What a recipe's `[output]` table asks for. The baseline, which others are compared with, stays as it is."""

    def __init__(self, table: OutputTable) -> None:
        self._table = table

    def deployed(self, model: nn.Module, number: int) -> nn.Module:
        """The model of row `number` as it is written and measured: itself, or a smaller copy that computes nearly the
        same."""
        half = _matching(model, self._table.half)
        if number == 0 or not self._table.packed or not (half or self._table.norms):
            return model
        return slimmed(model, half, self._table.norms)

    def files(self, model: nn.Module, number: int) -> dict[str, bytes]:
        """The files of a model that `deployed` returned, by name."""
        if number and self._table.packed:
            return {artifact.PACKED: pack(model)}
        return artifact.pack(model)


def _matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The patterns that match a tensor: the models of a chain need not all have the same layers."""
    names = [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]
    return [pattern for pattern in patterns if match(names, [pattern])]
