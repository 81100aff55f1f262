"""Reads the report of a run from its directory; damaged and foreign files are errors of one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolkit.errors import InputError, newer_format
from toolkit.report import FORMAT, Report
from toolkit.report.details import DETAILS, Details
from toolkit.report.details import FORMAT as DETAILS_FORMAT
from toolkit.report.value_checks import check_values
from toolkit.storage.run_directory import REPORT

MAX_BYTES = 8 << 20


def read_report(directory: str | Path) -> Report:
    """Read the report of a run directory.

    Raises:
        InputError: the directory or its report is missing, truncated, foreign, or of a newer version.
    """
    folder = Path(directory)
    path = folder / REPORT
    if not folder.exists():
        raise InputError(f"run directory {folder} does not exist")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; name a run directory")
    if not path.exists():
        raise InputError(f"{folder} is not a run directory: it has no {REPORT}")
    return parse_report(_json(path), str(path), folder)


def read_details(directory: Path) -> Details | None:
    """Read `details.json` of a run directory; return None if it is missing.

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
        raise InputError(f"{path} is corrupted: {_first(error, content)}") from None


def parse_report(content: Any, origin: str, directory: Path | None = None) -> Report:
    """Return the report in `content`, read from JSON; an `InputError` names `origin` and the first mistake."""
    _check_format(content, FORMAT, origin)
    try:
        check_values(content)
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
        if not path.is_file():  # such as a link to an endless device
            raise InputError(f"cannot read {path}: not a regular file")
        if path.stat().st_size > MAX_BYTES:  # objects take up to fifty times the memory
            raise InputError(f"{path} must be at most {MAX_BYTES >> 20} MiB")
        return _without_surrogates(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError:
        raise InputError(f"{path} is nested too deeply to be the report of a run") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise InputError(f"{path} is truncated or not JSON ({error})") from error


def _without_surrogates(content: Any) -> Any:
    """Replace surrogates, which JSON can escape and no terminal or page can show."""
    return json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))


def _first(error: ValidationError | RecursionError, content: Any) -> str:
    """Return the first mistake with its place, without the alternatives that pydantic tried."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(content, dict):
        return f"must be a table, found {type(content).__name__}"
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
    if len(mistake["loc"]) > len(place) and place[:1] == ["rows"]:  # no alternative matches
        what = "must be a number, a note, an interval, or a table by batch size"
    return f"{'.'.join(place)}: {what}" if place else what
