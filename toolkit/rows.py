"""One row of a report: what was measured of one model, with the notes and plots of the techniques that made it.

The classes are what `report.json` holds: pydantic writes and reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Interval: TypeAlias = tuple[float, float]
Pair: TypeAlias = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def _by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Return positional arguments by name; pydantic itself takes keywords only."""
    if len(values) > len(names):
        raise TypeError(f"takes at most {len(names)} positional arguments ({', '.join(names)}), found {len(values)}")
    return dict(zip(names, values, strict=False))


def _without_surrogates(text: Any) -> Any:
    """Replace halves of characters, which pydantic does not accept; the name of a layer may come from anywhere."""
    return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else text


class Plot(_Part):
    """How the table of a note is drawn on the page: `y` over `x`, a line for each value of `series`.

    All three are names of columns. Rows in which `x` or `y` is not a number are not drawn; without `series` there is
    one line. A line joins its rows in the order of the table.
    """

    x: str
    y: str
    series: str | None = None

    def __init__(self, *columns: str, **named: Any) -> None:
        super().__init__(**_by_name(("x", "y", "series"), columns), **named)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        return (self.x, self.y) if self.series is None else (self.x, self.y, self.series)


class Note(_Part):
    """Something for the report that is not a number: a text, a small table (a list of rows by column), or both.

    With a `plot` the page draws the table as lines, and shows the table beside them; elsewhere it is a table.
    """

    text: Annotated[str, BeforeValidator(_without_surrogates)] = ""
    table: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    plot: Plot | None = None

    def __init__(self, *fields: Any, **named: Any) -> None:
        super().__init__(**_by_name(("text", "table", "plot"), fields), **named)

    @model_serializer(mode="wrap")
    def _without_an_empty_plot(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {name: value for name, value in content.items() if name != "plot" or value is not None}


# What a row may hold: numbers, notes, intervals, losses, and tables of numbers or intervals by batch size.
Value: TypeAlias = bool | int | float | Note | list[float | None] | dict[str, int | float] | dict[str, Pair] | None


class Row(BaseModel):
    """The numbers of one model: `row["accuracy"]`, `row["pruning.sparsity"]`; `stage` is the stage's name.

    In `report.json` a row is a table with `stage` and each of its values by name.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Value]
    stage: str
    runtime: str | None = None
    """For an exported file the name of the runtime that ran it; None for a model that PyTorch ran."""

    def __init__(self, *fields: Any, **named: Any) -> None:
        given = _by_name(("stage", "values"), fields)
        super().__init__(**{**given.pop("values", {}), **given, **named})

    @property
    def values(self) -> Mapping[str, Any]:
        """All values by name."""
        return self.__pydantic_extra__

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a metric, or `default` where it was not measured."""
        return self.values.get(name, default)

    def number(self, name: str, size: str = "") -> float | None:
        """Return a number, or of numbers by batch size the one for `size`; None where it was not measured."""
        value = self.values.get(name)
        if size and isinstance(value, dict):
            value = value.get(size)
        return value if isinstance(value, (int, float)) else None

    def interval(self, name: str, size: str = "") -> Interval | None:
        """Return the pair of numbers under `name`, or of pairs by batch size the one for `size`; None without one."""
        pair = self.values.get(name)
        if size and isinstance(pair, dict):
            pair = pair.get(size)
        return (pair[0], pair[1]) if isinstance(pair, (list, tuple)) and len(pair) == 2 else None

    @property
    def notes(self) -> dict[str, Note]:
        """The values that are notes, by name."""
        return {name: value for name, value in self.values.items() if isinstance(value, Note)}
