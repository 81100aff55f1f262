"""What checkpoints cost a training: `python tests/benchmarks/checkpoints.py`.

LeNet-5 is trained on MNIST for one epoch with and without them, in turn; the median of the ratios is printed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from toolkit.data.mnist import mnist
from toolkit.interruption import Stop
from toolkit.models import lenet5
from toolkit.seeding import reseed
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.storage.run_directory import RunDirectory
from toolkit.training import Training, TrainingSettings, fit

ROUNDS, EPOCHS = 5, 2


def seconds(folder: Path | None) -> float:
    """How long a training takes, with checkpoints in `folder` or without."""
    reseed(0, 0)
    data, model = mnist(), lenet5()
    training = Training(TrainingSettings(epochs=EPOCHS, lr=2e-3), data.task.loss)
    keeper = None if folder is None else TrainingCheckpoints(RunDirectory(folder), "benchmark", Stop())
    started = time.perf_counter()
    fit(model, training, data, checkpoints=keeper)
    return time.perf_counter() - started


def main() -> None:
    """Print every ratio and their median."""
    ratios = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            plain, kept = seconds(None), seconds(Path(folder))
        ratios.append(kept / plain)
        print(f"with checkpoints / without: {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
