"""What happens after each epoch of a stage: a validation, unless it takes too long, and a line in the log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from toolkit.data.splits import Data
from toolkit.errors import described
from toolkit.number_text import seconds
from toolkit.recipe.read import Stage
from toolkit.report.validation_series import PREFIX
from toolkit.runner.validation import Metrics, primary_text, validation_metrics
from toolkit.training.step import Progress, Stepper

log = logging.getLogger("toolkit")
MAX_TIME_FRACTION = 0.05  # of the time of the epochs, spent on validation


class Epochs:
    """Validates after epochs, and reports each epoch to the log and to the observers.

    The first and the last epoch are validated. In between, as many epochs are left out as are needed to spend at most
    `MAX_TIME_FRACTION` of the time; the time of an epoch is measured, and that of the latest validation.

    Args:
        stage: stage that is trained.
        data: data of the run; without a validation split, or with `validate=False`, nothing is validated.
        tell: called with `epoch`, `epochs`, `loss` and `validation`.
        validate: whether to validate.
        clock: time in seconds.
    """

    def __init__(
        self,
        stage: Stage,
        data: Data,
        tell: Callable[..., None],
        validate: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stage, self._data, self._tell, self._clock = stage, data, tell, clock
        self._validate = validate and data.validation is not None
        self._epochs = stage.finetune.epochs if stage.finetune is not None else 1
        self._progress = Progress(order_seed=0)

    def begin(self, progress: Progress) -> None:
        """Tell the observers of the epochs before an interruption."""
        self._progress = progress
        for epoch, loss in enumerate(progress.losses, start=1):
            self._tell(epoch=epoch, epochs=self._epochs, loss=loss, validation=progress.validation[epoch - 1])

    def after_epoch(self, stepper: Stepper, progress: Progress, epoch_s: float) -> None:
        """Validate if it is time for it, log the epoch, and tell the observers."""
        is_due = progress.epoch >= progress.next_validation or progress.epoch == self._epochs
        validation = self._validated(stepper, progress, epoch_s) if self._validate and is_due else None
        progress.validation.append(validation)
        loss = progress.losses[-1]
        self._log(progress.epoch, loss, validation, epoch_s)
        self._tell(epoch=progress.epoch, epochs=self._epochs, loss=loss, validation=validation)

    @property
    def series(self) -> dict[str, list[float | None]]:
        """The value after each epoch, by metric; None for an epoch that was not validated."""
        epochs = self._progress.validation
        names = dict.fromkeys(name for metrics in epochs for name in metrics or ())
        return {name: [(metrics or {}).get(name) for metrics in epochs] for name in names}

    def _validated(self, stepper: Stepper, progress: Progress, epoch_s: float) -> dict[str, float | None] | None:
        started = self._clock()
        try:
            metrics = validation_metrics(stepper.model, self._data, stepper.training)
        except Exception as error:  # of a dataset or a metric; what is only shown does not end a training
            self._validate = False
            log.warning("%s: cannot validate during the training (%s)", self._stage.label, described(error))
            log.info("cannot validate", exc_info=True)
            return None
        allowed_s = MAX_TIME_FRACTION * epoch_s
        progress.next_validation = progress.epoch + max(1, math.ceil((self._clock() - started) / allowed_s))
        return metrics

    def _log(self, epoch: int, loss: float, validation: Metrics | None, epoch_s: float) -> None:
        parts = [f"epoch {epoch} of {self._epochs}", f"training loss {loss:.4f}"]
        if validation:
            parts.append(primary_text(validation))
        if epoch < self._epochs:
            parts.append(f"about {seconds((self._epochs - epoch) * epoch_s)} of training left")
        log.info("stage %d (%s): %s", self._stage.number, self._stage.name, ", ".join(parts))


def stored_epochs(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the epochs of a finished stage as the observers are told of them, from the values of its row."""
    losses = values.get("training_loss") or []
    series = {key.removeprefix(PREFIX): of for key, of in values.items() if key.startswith(PREFIX)}
    for epoch, loss in enumerate(losses, start=1):
        metrics = {name: of[epoch - 1] for name, of in series.items() if isinstance(of, list) and len(of) >= epoch}
        is_validated = any(value is not None for value in metrics.values())
        yield {"epoch": epoch, "epochs": len(losses), "loss": loss, "validation": metrics if is_validated else None}
