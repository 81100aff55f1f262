"""Checkpoints of the training in progress, saved in the run directory."""

from __future__ import annotations

import logging
import time

from toolkit.interruption import Stop
from toolkit.storage.record import DamagedError, Record, read_field, read_record
from toolkit.storage.run_directory import CHECKPOINT, RunDirectory
from toolkit.storage.training_state import State, matches, restore_state, take_state
from toolkit.timing import TimeRatio
from toolkit.training import TrainingSettings
from toolkit.training.step import Progress, Stepper

log = logging.getLogger("toolkit")

MAX_TIME_FRACTION = 0.03  # of the training time, spent on checkpoints
MAX_INTERVAL_S = 60.0  # if an epoch takes longer


class TrainingCheckpoints:
    """The checkpoints of one stage's training: saved after an epoch, after a minute, or before the run stops.

    Args:
        directory: where to save; two files are written alternately, so that one stays intact if the other is damaged.
        key: key of the stage; a checkpoint with a different key is ignored.
        stop: checked after every step; before the run stops, the state is saved.

    Attributes:
        times: what the timer of the stage answered before the training; a resumed stage decides by the same answers.
    """

    def __init__(self, directory: RunDirectory, key: str, stop: Stop) -> None:
        self._directory = directory
        self._names = [f"{CHECKPOINT}/training-{turn}.record" for turn in (0, 1)]
        self._key, self._stop = key, stop
        self._state = self._load_newest()
        self._saved_at, self._cost_s = time.monotonic(), 0.0
        stored = [] if self._state is None else self._state[1].get("times", [])
        self.times = [TimeRatio(*answer) for answer in stored]

    @property
    def settings(self) -> TrainingSettings | None:
        """The settings of the saved training; None if there is no checkpoint."""
        return None if self._state is None else TrainingSettings.model_validate(self._state[1]["settings"])

    def restore(self, stepper: Stepper, progress: Progress) -> None:
        """Continue from the checkpoint; from the beginning if there is none, or if it does not match the model."""
        if self._state is not None and matches(stepper, self._state):
            restore_state(stepper, progress, self._state)
            log.info("resuming after step %d", stepper.done)
        self._state = None

    def after_step(self, stepper: Stepper, progress: Progress) -> None:
        """Save a checkpoint if one is due; raise `Interrupted` if the run was asked to stop."""
        last = stepper.done == stepper.steps
        if last or self._stop.requested or self._is_due(progress):
            self._save(stepper, progress)
        self._stop.check()

    def _is_due(self, progress: Progress) -> bool:
        elapsed_s = time.monotonic() - self._saved_at
        is_cheap = elapsed_s * MAX_TIME_FRACTION >= self._cost_s
        return is_cheap and (progress.step == 0 or elapsed_s >= MAX_INTERVAL_S)

    def _save(self, stepper: Stepper, progress: Progress) -> None:
        started = time.monotonic()
        tensors, content = take_state(stepper, progress)
        self._directory.write(self._names[0], Record(tensors, {**content, "key": self._key, "times": self.times}).write)
        self._names.reverse()
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - started

    def _load_newest(self) -> State | None:
        """Return the newest intact state; the older file is read only if the newer one is damaged."""
        for name in sorted(self._names, key=self._steps, reverse=True):
            state = self._load(name)
            if state is not None:
                if name == self._names[0]:  # overwrite the other file next
                    self._names.reverse()
                return state
        return None

    def _steps(self, name: str) -> int:
        """Return how many steps a file claims to contain; -1 if it cannot be read."""
        try:
            return int(read_field(self._directory.path / name, "done"))
        except (DamagedError, ValueError, TypeError):
            return -1

    def _load(self, name: str) -> State | None:
        path = self._directory.path / name
        if not path.is_file():
            return None
        try:
            tensors, content = read_record(path)
        except DamagedError as error:
            log.warning("%s; using an older checkpoint", error)
            return None
        return (tensors, content) if content.get("key") == self._key else None
