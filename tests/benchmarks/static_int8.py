"""Static int8 in ONNX Runtime against the same float network there, on one thread; weights are random.

`python tests/benchmarks/static_int8.py [--network NAME] [--side PIXELS] [--batch SIZE]`, all options repeatable. Both
files take turns, so that a busy machine slows them alike; the ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
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
from toolkit.data.splits import Data

IMAGES, ROUNDS = 32, 30
Run = Callable[[Tensor], Tensor]


def network(name: str, images: Tensor) -> nn.Module:
    """A network of torchvision whose batch norms have the statistics of the images."""
    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models, name)(num_classes=10)
    with torch.no_grad():
        for _ in range(3):
            model(images)
    return model.eval()


def opened(model: nn.Module, images: Tensor, folder: str) -> tuple[Run, Path]:
    file = Path(folder) / "model.onnx"
    write_onnx(masks.folded(model).eval(), images[:2], file, 21)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0]), file


def times_ms(runs: list[Run], batch: Tensor) -> np.ndarray:
    """Times (runs, rounds) of files that take turns."""
    times = np.zeros((len(runs), ROUNDS))
    for turn in range(ROUNDS):
        for number, run in enumerate(runs):
            start = time.perf_counter()
            run(batch)
            times[number, turn] = 1e3 * (time.perf_counter() - start)
    return times


def measure(name: str, side: int, batches: list[int]) -> list[list[object]]:
    images = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0))
    model = network(name, images)
    split = images, torch.zeros(IMAGES, dtype=torch.long)
    data = Data(train=split, validation=split, batch_size=16)
    params = Params(activations="static", max_drop=100.0)
    ready = calibrated(masks.clone(model), params, data)
    guarded = converted(ready.model, ready, params)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        (plain, _), (integer, file) = opened(model, images, first), opened(guarded.model, images, second)
        layers, size = arithmetic_note(file).text, file.stat().st_size
        with torch.no_grad():
            error = relative_error(integer(images), guarded.model(images))
        rows: list[list[object]] = []
        for batch in batches:
            times = times_ms([plain, integer], images[:batch])
            ratio = float(np.median(times[1] / times[0]))
            best = times.min(1)
            rows.append([name, side, batch, best[0], best[1], ratio, best[1] / best[0], error, size, layers])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append")
    parser.add_argument("--side", action="append", type=int)
    parser.add_argument("--batch", action="append", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in asked.network or ["resnet18", "mobilenet_v2"]:
        for side in asked.side or [64, 224]:
            rows += measure(name, side, asked.batch or [1, 8])
    heads = ["network", "pixels", "batch", "float ms", "int8 ms", "median ratio", "ratio of the best"]
    print(tabulate(rows, [*heads, "error against the model", "bytes", "layers"], floatfmt=".3g"))


if __name__ == "__main__":
    main()
