"""A model and a batch, timed in blocks of calls."""

from __future__ import annotations

import math
import sys
import time

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.tasks import Batch

MAX_BLOCK_S = 0.01  # of calls timed together, well above the clock's resolution


class Stopwatch:
    """One model and one batch, timed in blocks of calls.

    Attributes:
        block_target_s: seconds that a block should take; one call may take longer.
        compiling_s: seconds of the call in which the model was compiled, 0 if it was not.
    """

    def __init__(self, model: nn.Module, data: Data, batch: Batch) -> None:
        self.model, self.data, self.batch = model, data, batch
        self.block_target_s = MAX_BLOCK_S
        self.compiling_s = 0.0
        self._calls = 1
        self._call_s, self._fastest_s = 0.0, math.inf
        # An accelerator is handed work and goes on by itself. Waiting once for a whole block would let a call
        # begin while the one before it is computed: that is throughput.
        self._waits = data.device.type != "cpu"

    @property
    def block_s(self) -> float:
        """The seconds that the next block takes at best: a stall says nothing of the next block."""
        return self._calls * self._fastest_s

    def first(self) -> float:
        """Return the seconds of the first call; of the next one if the model compiled itself in the first."""
        before = _compilations()
        # What a module makes on its first call and keeps must be fit for training: not from inference mode.
        with torch.no_grad():
            seconds = self._timed()
        if _compilations() == before:
            return seconds
        self.compiling_s, self._calls, self._fastest_s = seconds, 1, math.inf
        return self.block()

    def block(self) -> float:
        """Return the seconds that a call takes, as the mean of a block."""
        with torch.inference_mode():
            return self._timed()

    def settle(self) -> None:
        """Call the model without timing it, so that the next block finds the caches as after any other block.

        A block of a single call is so long that it does not matter.
        """
        if self._calls > 1:
            with torch.inference_mode():
                self.data.task.forward(self.model, self.batch)

    def _timed(self) -> float:
        start = time.perf_counter()
        for _ in range(self._calls):
            self.data.task.forward(self.model, self.batch)
            if self._waits:
                torch.accelerator.synchronize(self.data.device)
        self._call_s = (time.perf_counter() - start) / self._calls
        self._fastest_s = min(self._fastest_s, self._call_s)
        # Ten times more at most, in case that the clock is too coarse for what it just timed.
        self._calls = min(10 * self._calls, max(1, round(self.block_target_s / max(self._call_s, 1e-6))))
        return self._call_s


def _compilations() -> int:
    """Return how many graphs `torch.compile` has compiled in this process so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # importing it takes seconds
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0
