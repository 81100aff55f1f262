"""The run directory: where a run's results lie, and how they are written."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import InputError, ToolkitError
from toolkit.model_files import PACKED, SKELETON, TENSORS
from toolkit.recipe.differences import differences
from toolkit.storage.files import PART, remove_parts, write_file
from toolkit.storage.lock import locked

RECIPE, REPORT, TABLE, LOG, STAGES = "recipe.toml", "report.json", "report.md", "log.txt", "stages"
PLUGINS = "plugins"  # what run-wide plugins write, each in a folder of its name
CHECKPOINT, LOCK = "checkpoint", ".lock"
# Present in every run directory and in nothing else; a recipe.toml is a natural name in a folder of the user's. It
# says whether the run is finished, what determines it, and which process works on it.
MARK = ".toolkit-run"
MODEL = (TENSORS, SKELETON, PACKED)
OWNED = (RECIPE, REPORT, TABLE, LOG, "report.html", "details.json", *MODEL, STAGES, CHECKPOINT, PLUGINS)
SHOWN = 6  # differences between two recipes in an error


class RunDirectory:
    """A folder that a run owns. Files are written beside their place and renamed: none is ever half there."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        self.path, self._root = path, root or path

    @classmethod
    @contextmanager
    def held(cls, path: Path, identity: Any, overwrite: bool = False) -> Iterator[RunDirectory]:
        """A run directory that no other process works on, new or with what an interrupted run left.

        Args:
            path: an `InputError` if another process has it, or if it holds an unfinished run of another recipe.
            identity: what determines the run, for JSON.
            overwrite: whether it loses what a run owns, whatever that is.
        """
        cls.refuse_existing(path, overwrite)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with locked(path / LOCK) as had:
                if not had:
                    raise InputError(f"the run directory {path} is in use by {_holder(path)}: choose another --output")
                cls.refuse_existing(path, overwrite)  # by now it may be finished
                yield cls(path)._begun(identity, overwrite)
        except OSError as error:
            raise InputError(f"the run directory {path} cannot be made: {error.strerror or error}") from error

    def _begun(self, identity: Any, overwrite: bool) -> RunDirectory:
        remove_parts(self.path)
        mark = _mark(self.path)
        if mark.get("state") != "unfinished" or overwrite:
            for name in OWNED:
                _remove(self.path / name)
        else:
            _refuse_other(self.path, mark.get("identity"), identity)
        self._write_mark("unfinished", identity)
        return self

    def finish(self) -> None:
        """From now on only `overwrite` replaces what is here."""
        self._write_mark("finished", _mark(self.path).get("identity"))
        shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)

    @staticmethod
    def sweep(path: Path) -> None:
        """Remove what a run left that was killed when it was finished already."""
        if (path / CHECKPOINT).is_dir() and _mark(path).get("state") == "finished":
            with locked(path / LOCK) as had:
                if had:
                    remove_parts(path)
                    shutil.rmtree(path / CHECKPOINT, ignore_errors=True)

    def _write_mark(self, state: str, identity: Any) -> None:
        holder = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self.write_json(MARK, {"state": state, "holder": holder, "identity": identity})

    @staticmethod
    def refuse_existing(path: Path, overwrite: bool) -> None:
        """Raise an `InputError` if a run may not use `path`; looks only."""
        if not path.exists() or (path.is_dir() and all(_is_leftover(entry) for entry in path.iterdir())):
            return
        if not (path / MARK).is_file():
            raise InputError(f"{path} exists and is not a run directory: choose another --output")
        if not overwrite and _mark(path).get("state") != "unfinished":
            raise InputError(f"the run directory {path} exists: choose another --output, or give --overwrite")

    def stage(self, number: int, name: str) -> RunDirectory:
        """The folder of one stage's model."""
        return RunDirectory(self.path / STAGES / f"{number}-{name}", self._root)

    def write(self, name: str, content: bytes | str) -> Path:
        """Write one file; the folder is made if need be."""
        path = self.path / name
        content = content.encode() if isinstance(content, str) else content
        if not self._root.is_dir():
            raise ToolkitError(f"the run directory {self._root} is gone: somebody removed or renamed it")
        try:
            write_file(path, content)
        except OSError as error:
            raise ToolkitError(f"{path} cannot be written: {error.strerror or error}") from error
        return path

    def write_all(self, contents: Mapping[str, bytes]) -> int:
        """Write several files and return their length together, in bytes."""
        return sum(self.write(name, content).stat().st_size for name, content in contents.items())

    def write_json(self, name: str, content: Any) -> None:
        """Write one file of JSON."""
        self.write(name, json.dumps(content, indent=1, allow_nan=False, default=str) + "\n")


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


def _mark(path: Path) -> dict[str, Any]:
    """What the mark of a run directory says; nothing of one that was made before marks said anything."""
    try:
        content = json.loads((path / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _holder(path: Path) -> str:
    holder = _mark(path).get("holder")
    if not isinstance(holder, dict):
        return "another process"
    return f"process {holder.get('process')} on {holder.get('host')} since {holder.get('since')}"


def _is_leftover(path: Path) -> bool:
    """Whether this is all that a process leaves which is killed before it has marked the directory."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(PART))


def _refuse_other(path: Path, before: Any, now: Any) -> None:
    found = list(differences(before, json.loads(json.dumps(now, default=str))))
    if found:
        shown = "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
        raise InputError(
            f"the run directory {path} holds an unfinished run of something else: {shown}: "
            f"choose another --output, or give --overwrite to start anew"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
