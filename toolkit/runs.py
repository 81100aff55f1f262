"""The run directory: where a run's results lie, and how they are written."""

from __future__ import annotations

import json
import logging
import os
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.artifact import SKELETON, TENSORS
from toolkit.errors import InputError, ToolkitError

RECIPE, REPORT, TABLE, LOG, STAGES = "recipe.toml", "report.json", "report.md", "log.txt", "stages"


# Present in every run directory and in nothing else; a recipe.toml is a natural name in a folder of the user's.
MARK = ".toolkit-run"
OWNED = (RECIPE, REPORT, TABLE, LOG, "report.html", "details.json", TENSORS, SKELETON, STAGES)


class RunDirectory:
    """A folder that a run owns. Files are written beside their place and renamed: none is ever half there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, overwrite: bool = False) -> RunDirectory:
        """Make a run directory; an existing one is an `InputError`, or with `overwrite` loses what a run owns."""
        cls.refuse_existing(path, overwrite)
        try:
            path.mkdir(parents=True, exist_ok=True)
            for name in OWNED:
                _remove(path / name)
            (path / MARK).touch()
        except OSError as error:
            raise InputError(f"the run directory {path} cannot be made: {error.strerror or error}") from error
        return cls(path)

    @staticmethod
    def refuse_existing(path: Path, overwrite: bool) -> None:
        """Raise an `InputError` if a run may not use `path`; looks only."""
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not (path / MARK).is_file():
            raise InputError(f"{path} exists and is not a run directory: choose another --output")
        if not overwrite:
            raise InputError(f"the run directory {path} exists: choose another --output, or give --overwrite")

    def stage(self, number: int, name: str) -> RunDirectory:
        """The folder of one stage's model."""
        return RunDirectory(self.path / STAGES / f"{number}-{name}")

    def write(self, name: str, content: bytes | str) -> Path:
        """Write one file; the folder is made if need be."""
        path = self.path / name
        content = content.encode() if isinstance(content, str) else content
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_bytes(content)
            os.replace(beside, path)
        except OSError as error:
            raise ToolkitError(f"{path} cannot be written: {error.strerror or error}") from error
        return path

    def write_all(self, contents: Mapping[str, bytes]) -> int:
        """Write several files and return their length together, in bytes."""
        return sum(self.write(name, content).stat().st_size for name, content in contents.items())

    def write_json(self, name: str, content: Any) -> None:
        """Write one file of JSON."""
        self.write(name, json.dumps(content, indent=1, allow_nan=False) + "\n")


@contextmanager
def logging_to(directory: RunDirectory, logger: logging.Logger) -> Iterator[None]:
    """Write a logger's messages, and the traceback of an error that passes, to the run's log."""
    handler = logging.FileHandler(directory.path / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException:
        logger.info("%s", traceback.format_exc())  # for authors of techniques; the terminal gets one sentence
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
