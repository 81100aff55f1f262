"""The deployed form of a model: the files that a run writes, and the reductions applied before measuring."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from toolkit import model_files as artifact
from toolkit.errors import InputError
from toolkit.model_files.packed import pack, slimmed
from toolkit.patterns import match
from toolkit.recipe.tables import OutputTable


class Output:
    """The settings of an `[output]` table, applied to the model of every row except the baseline."""

    def __init__(self, table: OutputTable) -> None:
        self._table = table
        self._matched: set[str] = set()

    def deployed(self, model: nn.Module, number: int) -> nn.Module:
        """Return the model of row `number` in the form that is written and measured: itself or a reduced copy."""
        half = _matching(model, self._table.half)
        self._matched.update(half)
        if number == 0 or not self._table.packed or not (half or self._table.norms):
            return model
        return slimmed(model, half, self._table.norms)

    def files(self, model: nn.Module, number: int) -> dict[str, bytes]:
        """Return the files of a model from `deployed`, by name."""
        if number and self._table.packed:
            return {artifact.PACKED: pack(model)}
        return artifact.pack(model)

    def check_patterns(self) -> None:
        """Raise an `InputError` if a pattern in `half` matches no tensor in any model that `deployed` was given."""
        unmatched = [f"'{pattern}'" for pattern in self._table.half if pattern not in self._matched]
        if unmatched:
            raise InputError(
                f"output.half: no model of the run has a tensor {' or '.join(unmatched)}; remove the pattern"
            )


def _matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the patterns that match a tensor of this model; the models of a chain may have different layers."""
    names = [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]
    return [pattern for pattern in patterns if match(names, [pattern])]
