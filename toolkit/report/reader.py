"""A run's report read again from its directory; what is damaged or foreign is named in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolkit.errors import InputError, newer_format
from toolkit.metrics import all_quantities
from toolkit.metrics.support.metric import Quantity
from toolkit.report import FORMAT, Report
from toolkit.report.details import DETAILS, Details
from toolkit.report.details import FORMAT as DETAILS_FORMAT
from toolkit.storage.run_directory import REPORT

MAX_BYTES = 8 << 20


def read_report(directory: str | Path) -> Report:
    """Read the report of a run directory.

    Raises:
        InputError: the directory or its report is missing, truncated, foreign, or of a newer version.
    """
    folder = Path(directory)
    path = folder / REPORT
    if not folder.is_dir():
        raise InputError(f"run directory {folder} does not exist")
    if not path.exists():
        raise InputError(f"{folder} is not a run directory: it has no {REPORT}")
    return parse_report(_json(path), str(path), folder)


def read_details(directory: Path) -> Details | None:
    """Read what the page shows besides the numbers; return None where the file is missing.

    Raises:
        InputError: the file is damaged, or of a newer version.
    """
    path = directory / DETAILS
    if not path.exists():
        return None
    content = _json(path)
    _check_format(content, DETAILS_FORMAT, str(path))
    try:
        return Details.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise InputError(f"{path} was not written by this version of the toolkit: {_first(error, content)}") from None


def parse_report(content: Any, origin: str, directory: Path | None = None) -> Report:
    """Return the report in `content`, read from JSON; an `InputError` names `origin` and the first mistake."""
    _check_format(content, FORMAT, origin)
    try:
        _check_values(content)
        report = Report.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise InputError(f"{origin} is not the report of a run: {_first(error, content)}") from None
    except ValueError as error:
        raise InputError(f"{origin} is not the report of a run: {error}") from None
    return report.model_copy(update={"directory": directory, "quality": report.quality or {"accuracy": "higher"}})


def _check_format(content: Any, latest: int, origin: str) -> None:
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > latest:
        raise InputError(f"{origin} {newer_format(version, latest)}")


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


def _check_values(content: Any) -> None:
    """Raise a `ValueError` for a value of a known metric that cannot be; the schema checks all that is not known."""
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        return
    metrics = [name for metric in content.get("quality") or () for name in (metric, f"{metric}_change")]
    quantities = {**{name: Quantity(name) for name in metrics}, **all_quantities()}
    intervals = {quantity.interval for quantity in quantities.values()}
    for number, row in enumerate(content["rows"]):
        for key, value in row.items() if isinstance(row, dict) else ():
            if key in quantities:
                _check_value(value, quantities[key], f"rows.{number}.{key}")
            elif key in intervals:
                _check_interval(value, f"rows.{number}.{key}")


def _check_value(value: Any, quantity: Quantity, place: str) -> None:
    if quantity.by_batch_size:
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{place}: must be a table of numbers by batch size, found {value!r:.40}")
        for size, number in (value or {}).items():
            _check_value(number, replace(quantity, by_batch_size=False), f"{place}.{size}")
        return
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{place}: must be a number, found {value!r:.40}")
    if quantity.minimum is not None and value < quantity.minimum:
        raise ValueError(f"{place}: must be at least {quantity.minimum:g}, found {value:g}")
    if quantity.positive and value <= 0:
        raise ValueError(f"{place}: must be greater than 0, found {value:g}")
    if quantity.maximum is not None and value > quantity.maximum:
        raise ValueError(f"{place}: must be at most {quantity.maximum:g}, found {value:g}")


def _check_interval(value: Any, place: str) -> None:
    pairs = {f"{place}.{size}": pair for size, pair in value.items()} if isinstance(value, dict) else {place: value}
    for where, pair in pairs.items():
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(isinstance(end, (int, float)) for end in pair)
        if pair is not None and not is_pair:
            raise ValueError(f"{where}: must be two numbers, found {pair!r:.40}")


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
    if len(mistake["loc"]) > len(place) and place[:1] == ["rows"]:  # none of the kinds of values
        what = "must be a number, a note, an interval, or a table by batch size"
    return f"{'.'.join(place)}: {what}" if place else what
