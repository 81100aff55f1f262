"""The checkpoints of one run, in its directory: finished stages, and the training that is under way."""

from __future__ import annotations

import logging
import time

from toolkit.interruption import Stop
from toolkit.storage.record import DamagedError, pack_record, read_record
from toolkit.storage.run_directory import CHECKPOINT, RunDirectory
from toolkit.storage.training_state import State, fits, restore_state, take_state
from toolkit.training import TrainingSettings
from toolkit.training.step import Progress, Stepper

log = logging.getLogger("toolkit")

SHARE = 0.03  # of a training's time at most goes into checkpoints
LONGEST_S = 60.0  # between two checkpoints, where an epoch takes longer


class TrainingKeeper:
    """Keeps the training of one stage: after an epoch, or after a minute, or before stopping.

    Args:
        directory: two files are written there in turn, so that there is an intact one if the other is damaged.
        key: what determines the stage; a state of another one is not used.
        stop: asked after every step whether to end here; then the state is kept first.
    """

    def __init__(self, directory: RunDirectory, key: str, stop: Stop) -> None:
        self._directory = directory
        self._names = [f"{CHECKPOINT}/training-{turn}.record" for turn in (0, 1)]
        self._key, self._stop = key, stop
        self._state = self._newest()
        self._kept_at, self._cost_s = time.monotonic(), 0.0

    @property
    def settings(self) -> TrainingSettings | None:
        """The settings of the training that is kept, if there is one."""
        return None if self._state is None else TrainingSettings.model_validate(self._state[1]["settings"])

    def restore(self, stepper: Stepper, progress: Progress) -> None:
        """Go on where the kept training was left; from the beginning where there is none, or it does not fit."""
        if self._state is not None and fits(stepper, self._state):
            restore_state(stepper, progress, self._state)
            log.info("goes on after step %d", stepper.done)
        self._state = None

    def after_step(self, stepper: Stepper, progress: Progress) -> None:
        """Keep the state where it is time to."""
        last = stepper.done == stepper.steps
        if last or self._stop.asked or self._is_due(progress):
            self._keep(stepper, progress)
        self._stop.here()

    def _is_due(self, progress: Progress) -> bool:
        passed_s = time.monotonic() - self._kept_at
        return passed_s * SHARE >= self._cost_s and (progress.step == 0 or passed_s >= LONGEST_S)

    def _keep(self, stepper: Stepper, progress: Progress) -> None:
        started = time.monotonic()
        tensors, content = take_state(stepper, progress)
        self._directory.write(self._names[0], pack_record(tensors, {**content, "key": self._key}))
        self._names.reverse()
        self._kept_at = time.monotonic()
        self._cost_s = self._kept_at - started

    def _newest(self) -> State | None:
        found = [(name, state) for name in self._names if (state := self._intact(name)) is not None]
        if not found:
            return None
        name, state = max(found, key=lambda each: each[1][1]["done"])
        if name == self._names[0]:  # the next one takes the place of the other
            self._names.reverse()
        return state

    def _intact(self, name: str) -> State | None:
        path = self._directory.path / name
        if not path.is_file():
            return None
        try:
            tensors, content = read_record(path)
        except DamagedError as error:
            log.warning("%s: an older checkpoint is used", error)
            return None
        return (tensors, content) if content.get("key") == self._key else None
