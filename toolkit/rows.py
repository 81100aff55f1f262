"""Rows of a report: the numbers of a model, with the notes and plots of its techniques.

These classes are the schema of the rows in `report.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

MAX_INTEGER = 10**300
WARNINGS, BREACHES = "warnings", "promises"  # names of the notes of the core about what is wrong with a row
Interval: TypeAlias = tuple[float, float]
Pair: TypeAlias = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def _by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Return positional arguments by name; pydantic accepts only keywords."""
    if len(values) > len(names):
        raise TypeError(f"takes at most {len(names)} positional arguments ({', '.join(names)}), found {len(values)}")
    return dict(zip(names, values, strict=False))


def _without_surrogates(text: Any) -> Any:
    """Replace surrogates, which pydantic rejects; a name in a note may contain any characters."""
    return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else text


class Plot(_Part):
    """How the page draws the table of a note: `y` over `x`, with a line for each value of `series`.

    All three are names of columns; without `series` there is one line. A line joins its rows in the order of the table,
    without those in which `x` or `y` is not a number.
    """

    x: str
    y: str
    series: str | None = None

    def __init__(self, *columns: str, **named: Any) -> None:
        super().__init__(**_by_name(("x", "y", "series"), columns), **named)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (self.x, self.y) if self.series is None else (self.x, self.y, self.series)


class Note(_Part):
    """A text, a small table (a list of rows by column), or both, for the report.

    With a `plot`, the page draws the table as lines; a terminal and Markdown show the table.
    """

    text: Annotated[str, BeforeValidator(_without_surrogates)] = ""
    table: Annotated[list[dict[str, Any]], Field(strict=False)] = []
    plot: Plot | None = None

    def __init__(self, *fields: Any, **named: Any) -> None:
        super().__init__(**_by_name(("text", "table", "plot"), fields), **named)

    @model_serializer(mode="wrap")
    def _without_an_empty_plot(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {name: value for name, value in content.items() if name != "plot" or value is not None}


class Number(_Part):
    """What a number that a plugin measures means; a plugin declares `numbers = {"norm": toolkit.Number("norm", …)}`.

    Attributes:
        label: name of the number for readers.
        explanation: noun phrase, which appears when a reader points at the label.
        unit: unit of the value; `bytes` and `fraction` are shown as `62.9 kB` and `80.00 %`.
        better: whether `higher` or `lower` values are better; None if neither is.
    """

    label: Annotated[str, Field(min_length=1)]
    explanation: str = ""
    unit: str = ""
    better: Literal["higher", "lower"] | None = None

    def __init__(self, *fields: Any, **named: Any) -> None:
        super().__init__(**_by_name(("label", "explanation", "unit", "better"), fields), **named)


# Numbers must fit into a float, to be drawn and compared.
Numeric: TypeAlias = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)] | float
# Numbers, notes, intervals, losses, and tables of numbers or intervals by batch size.
Value: TypeAlias = bool | Numeric | Note | list[float | None] | dict[str, Numeric] | dict[str, Pair] | None


class Row(BaseModel):
    """The numbers of one model: `row["accuracy"]`, `row["pruning.sparsity"]`; `stage` is the stage's name.

    In `report.json`, a row is a table of `stage` and the values by name.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Value]
    stage: str
    runtime: str | None = None
    """For an exported file the name of the runtime that ran it; None for a model that PyTorch ran."""
    timed_with: str | None = None
    """What differed from the run's rows when this row was timed, such as the processor; None if nothing did."""

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
        """Return the value of a metric, or `default` if it was not measured."""
        return self.values.get(name, default)

    def number(self, name: str, size: str = "") -> float | None:
        """Return a number, or the entry for `size` of numbers by batch size; None if it was not measured."""
        value = self.values.get(name)
        if size and isinstance(value, dict):
            value = value.get(size)
        return value if isinstance(value, (int, float)) else None

    def interval(self, name: str, size: str = "") -> Interval | None:
        """Return an interval, or the entry for `size` of intervals by batch size; None if there is none."""
        pair = self.values.get(name)
        if size and isinstance(pair, dict):
            pair = pair.get(size)
        return (pair[0], pair[1]) if isinstance(pair, (list, tuple)) and len(pair) == 2 else None

    @property
    def notes(self) -> dict[str, Note]:
        """The values that are notes, by name."""
        return {name: value for name, value in self.values.items() if isinstance(value, Note)}
