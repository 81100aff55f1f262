"""A run's report read again from its directory; what is damaged or foreign is named in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.errors import InputError
from toolkit.report import Report
from toolkit.report.details import DETAILS, Details
from toolkit.rows import Note, Row
from toolkit.storage.run_directory import REPORT

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
BySize = dict[str, float]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

MAX_BYTES = 8 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Plot(_Strict):
    model_config = ConfigDict(strict=True, extra="forbid")
    x: str
    y: str
    series: str | None = None


class _Note(_Strict):
    model_config = ConfigDict(strict=True, extra="forbid")
    text: str
    table: list[dict[str, Any]]
    plot: _Plot | None = None


Value = float | None | _Note | Pair | list[float] | BySize | dict[str, Pair]


class _Row(_Strict):
    """The names whose meaning the report knows; any other has a value of one of the same shapes."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")
    __pydantic_extra__: dict[str, Value]
    stage: str
    accuracy: Fraction | None = None
    agreement: Fraction | None = None
    sparsity: Fraction | None = None
    samples: float | None = None
    size_bytes: Positive | None = None
    parameters: float | None = None
    nonzero: float | None = None
    macs: float | None = None
    duration_s: float | None = None
    measuring_s: float | None = None
    reused: bool | None = None
    peak_memory_bytes: float | None = None
    latency_ms: dict[str, Positive] | None = None
    latency_ratio: dict[str, Positive] | None = None
    latency_spread_ms: dict[str, Pair] | None = None
    latency_ratio_interval: dict[str, Pair] | None = None
    training_loss: list[float | None] | None = None


class _Report(_Strict):
    name: str
    seed: int
    rows: list[_Row] = Field(min_length=1)
    environment: dict[str, Any]
    quality: dict[str, Literal["higher", "lower"]] = {}
    starts: list[Annotated[int, Field(ge=0)]] = []


def read_report(directory: str | Path) -> Report:
    """The report of a run directory, or an `InputError`: missing, truncated, foreign or wrongly typed."""
    folder = Path(directory)
    path = folder / REPORT
    if not folder.is_dir():
        raise InputError(f"there is no run directory {folder}")
    if not path.exists():
        raise InputError(f"{folder} is not the directory of a run: there is no {REPORT} in it")
    report = parse_report(_json(path), str(path))
    return Report(report.name, report.seed, report.rows, report.environment, report.quality, report.starts, folder)


def read_details(directory: Path) -> Details | None:
    """What the page shows besides the numbers; None without the file, an `InputError` if it is damaged."""
    path = directory / DETAILS
    if not path.exists():
        return None
    content = _json(path)
    try:
        return Details.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise InputError(f"{path} was not written by this version of the toolkit: {_first(error, content)}") from None


def parse_report(content: Any, origin: str) -> Report:
    """The report that `content`, read from JSON, holds; an `InputError` names `origin` and the first mistake."""
    try:
        checked = _Report.model_validate(content)
        _check_quality(content["rows"], checked.quality)
    except (ValidationError, RecursionError) as error:
        raise InputError(f"{origin} is not the report of a run: {_first(error, content)}") from None
    except ValueError as error:
        raise InputError(f"{origin} is not the report of a run: {error}") from None
    rows = tuple(Row(row["stage"], _values(row)) for row in content["rows"])
    starts = tuple(min(start, max(number - 1, 0)) for number, start in enumerate(checked.starts))
    quality = checked.quality or {"accuracy": "higher"}
    return Report(checked.name, checked.seed, rows, content["environment"], quality, starts)


def _json(path: Path) -> Any:
    try:
        if not path.is_file():  # a link may lead to something without an end
            raise InputError(f"{path} cannot be read: it is not a file")
        if path.stat().st_size > MAX_BYTES:  # as objects it takes up to fifty times as much
            raise InputError(f"{path} takes more than {MAX_BYTES >> 20} MiB: it is not read as the report of a run")
        return _without_surrogates(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError:
        raise InputError(f"{path} is nested too deeply to be the report of a run") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise InputError(f"{path} is truncated or not JSON: {error}") from error


def _without_surrogates(content: Any) -> Any:
    """JSON can spell halves of characters, which a note may hold and nothing can show."""
    return json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))


def _check_quality(rows: list[dict[str, Any]], quality: Mapping[str, str]) -> None:
    """Of a metric that the report itself names the numbers and intervals have to be such."""
    for number, row in enumerate(rows):
        for name in (name for metric in quality for name in (metric, f"{metric}_change")):
            if not _is_number(row.get(name)):
                raise ValueError(f"rows.{number}.{name}: must be a number, found {row[name]!r:.40}")
            if not _is_pair(row.get(f"{name}_interval")):
                found = row[f"{name}_interval"]
                raise ValueError(f"rows.{number}.{name}_interval: must be two numbers, found {found!r:.40}")


def _is_pair(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in row.items() if name != "stage"}


def _value(value: Any) -> Any:
    is_note = isinstance(value, dict) and isinstance(value.get("text"), str)  # a number for each batch size has none
    return Note.from_json(value) if is_note else value


def _first(error: ValidationError | RecursionError, content: Any) -> str:
    """The first mistake with its place, which ends where pydantic begins to name the kinds that it tried."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}, not a table"
    mistake = error.errors(include_url=False)[0]
    place = []
    for part in mistake["loc"]:
        if isinstance(content, dict) and part in content:
            content = content[str(part)]
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
        elif mistake["type"] != "missing":
            break
        place.append(str(part))
    what = mistake["msg"][:1].lower() + mistake["msg"][1:]
    return f"{'.'.join(place)}: {what}" if place else what
