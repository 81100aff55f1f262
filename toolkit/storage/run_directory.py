"""The run directory: the files of one run, and who may write them."""

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
from toolkit.storage.files import PARTIAL_SUFFIX, Content, remove_partial_files, write_file
from toolkit.storage.lock import locked

RECIPE, REPORT, TABLE, LOG, STAGES = "recipe.toml", "report.json", "report.md", "log.txt", "stages"
EXPORTS = "exports"  # files of other runtimes, each export in a folder of its name
PLUGINS = "plugins"  # one folder per run-wide plugin
CHECKPOINT, LOCK = "checkpoint", ".lock"
# Marks a folder as a run directory; recipe.toml cannot, because a user's own folder may contain one. The file records
# whether the run is finished, the identity of the run, and the process that works on it.
MARK = ".toolkit-run"
MODEL = (TENSORS, SKELETON, PACKED)
OWNED = (RECIPE, REPORT, TABLE, LOG, "report.html", "details.json", *MODEL, STAGES, CHECKPOINT, PLUGINS, EXPORTS)
MAX_LISTED = 6  # differences in one error


class RunDirectory:
    """The folder of one run, or of one stage in it. Files in it are written atomically."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        self.path, self._root = path, root or path

    @classmethod
    @contextmanager
    def acquire(cls, path: Path, identity: Any, overwrite: bool = False) -> Iterator[RunDirectory]:
        """Hold the lock on a run directory, and create the directory or prepare it for resuming.

        Args:
            path: folder of the run.
            identity: everything that determines the run, as JSON-serializable values.
            overwrite: delete the files of an earlier run, finished or not.

        Raises:
            InputError: another process uses the directory, it contains an unfinished run with a different identity or
                files that are not a run's, or it cannot be created.
        """
        cls.check_available(path, overwrite)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with locked(path / LOCK) as acquired:
                if not acquired:
                    raise InputError(f"{path} is in use by {_holder(path)}; choose another --output")
                cls.check_available(path, overwrite)  # the other process may have finished it meanwhile
                yield cls(path)._begin(identity, overwrite)
        except OSError as error:
            raise InputError(f"cannot create the run directory {path}: {error.strerror or error}") from error

    @classmethod
    @contextmanager
    def at_rest(cls, path: Path) -> Iterator[RunDirectory]:
        """Hold the lock on the directory of a run that no process works on.

        Raises:
            InputError: a process works on it, or it cannot be written.
        """
        try:
            with locked(path / LOCK) as acquired:
                if not acquired:
                    raise InputError(f"{path} is in use by {_holder(path)}; wait until it ends")
                directory = cls(path)
                if mark := _mark(path):
                    directory._write_mark(mark.get("state"), mark.get("identity"))  # with this process as the holder
                yield directory
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error.strerror or error}") from error

    def _begin(self, identity: Any, overwrite: bool) -> RunDirectory:
        remove_partial_files(self.path)
        mark = _mark(self.path)
        if mark.get("state") != "unfinished" or overwrite:
            for name in OWNED:
                _remove(self.path / name)
        else:
            _check_identity(self.path, mark.get("identity"), identity)
        self._write_mark("unfinished", identity)
        return self

    def finish(self) -> None:
        """Mark the run as finished and delete its checkpoints; from now on, only `overwrite` replaces it."""
        self._write_mark("finished", _mark(self.path).get("identity"))
        shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)

    @staticmethod
    def clean_up(path: Path) -> None:
        """Delete the checkpoints of a run that was killed after it had finished."""
        if (path / CHECKPOINT).is_dir() and _mark(path).get("state") == "finished":
            with locked(path / LOCK) as acquired:
                if acquired:
                    remove_partial_files(path)
                    shutil.rmtree(path / CHECKPOINT, ignore_errors=True)

    def _write_mark(self, state: Any, identity: Any) -> None:
        holder = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self.write_json(MARK, {"state": state, "holder": holder, "identity": identity})

    @staticmethod
    def check_available(path: Path, overwrite: bool) -> None:
        """Raise an `InputError` if a run may not use `path`; write nothing."""
        if not path.exists() or (path.is_dir() and all(_is_leftover(entry) for entry in path.iterdir())):
            return
        if not (path / MARK).is_file():
            raise InputError(f"{path} exists and is not a run directory; choose another --output")
        if not overwrite and _mark(path).get("state") != "unfinished":
            raise InputError(f"{path} already exists; choose another --output, or pass --overwrite")

    @staticmethod
    def is_unfinished(path: Path) -> bool:
        """Return whether `path` contains a run that can be resumed."""
        return _mark(path).get("state") == "unfinished"

    def stage(self, number: int, name: str) -> RunDirectory:
        """Return the folder for the model of one stage."""
        return RunDirectory(self.path / STAGES / f"{number}-{name}", self._root)

    def write(self, name: str, content: Content | str) -> Path:
        """Write one file, and create its folder if missing; return the path of the file.

        Raises:
            ToolkitError: the run directory no longer exists, or the file cannot be written.
        """
        path = self.path / name
        content = content.encode() if isinstance(content, str) else content
        if not self._root.is_dir():
            raise ToolkitError(f"the run directory {self._root} no longer exists; do not move it during a run")
        try:
            write_file(path, content)
        except OSError as error:
            raise ToolkitError(f"cannot write {path}: {error.strerror or error}") from error
        return path

    def write_all(self, contents: Mapping[str, bytes]) -> int:
        """Write several files; return their total size in bytes."""
        return sum(self.write(name, content).stat().st_size for name, content in contents.items())

    def write_json(self, name: str, content: Any) -> None:
        """Write one JSON file."""
        self.write(name, json.dumps(content, indent=1, allow_nan=False, default=str) + "\n")


@contextmanager
def logging_to(directory: RunDirectory, logger: logging.Logger) -> Iterator[None]:
    """Write the messages of a logger, and the traceback of an error raised inside, to the log file of the run.

    Warnings also go to the terminal if the application has not configured logging.
    """
    terminal = logging.StreamHandler() if not logger.hasHandlers() else logging.NullHandler()
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(logging.Formatter("warning: %(message)s"))
    handler = logging.FileHandler(directory.path / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.addHandler(terminal)
    logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException:
        logger.info("%s", traceback.format_exc())  # for plugin authors; the terminal shows one sentence
        raise
    finally:
        logger.removeHandler(handler)
        logger.removeHandler(terminal)
        logger.setLevel(level)
        handler.close()


def _mark(path: Path) -> dict[str, Any]:
    """Return the content of a run directory's mark; empty if there is none, or if it is not JSON."""
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
    """Return whether a process that was killed before it marked the directory may have left this file."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(PARTIAL_SUFFIX))


def _check_identity(path: Path, before: Any, now: Any) -> None:
    changes = list(differences(before, json.loads(json.dumps(now, default=str))))
    if changes:
        more = f", and {len(changes) - MAX_LISTED} more" if len(changes) > MAX_LISTED else ""
        raise InputError(
            f"{path} contains an unfinished run with different settings ({', '.join(changes[:MAX_LISTED])}{more}); "
            "choose another --output, or pass --overwrite to start again"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
