"""A stacked LSTM with integer products in ONNX Runtime, against its float file there, on one thread.

`python tests/benchmarks/recurrent.py` trains an LSTM of three layers of 256 units to read images row by row, once from
pixels and once from energies, which lie within two orders of magnitude. The guard decides which layers multiply
integers. Both files take turns, so that a busy machine slows them alike; a ratio is the median over the turns, in
brackets the quartiles.
"""

from __future__ import annotations

import argparse
import tempfile

import toolkit_quantization as quantization
import torch
from static_int8 import opened, ratio, times_ms
from tabulate import tabulate
from toolkit_quantization import Params, relative_error
from torch import Tensor, nn

from toolkit import Note
from toolkit.data.mnist import MEAN, STANDARD_DEVIATION, mnist
from toolkit.data.validation_split import with_validation
from toolkit.training import Training, TrainingSettings, fit

TRAIN, VALIDATION, TEST = 6000, 1000, 2000
BATCHES, ROUNDS = (1, 16), 150


class Reader(nn.Module):
    """An LSTM over the rows of an image, and a linear layer on its last state."""

    def __init__(self, reads_energies: bool) -> None:
        super().__init__()
        self.reads_energies = reads_energies
        self.lstm, self.leave = nn.LSTM(28, 256, 3, batch_first=True), nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.squeeze(1)
        if self.reads_energies:
            rows = 10 ** (2 * (rows * STANDARD_DEVIATION + MEAN) - 1)
        states: Tensor = self.lstm(rows)[0]
        answers: Tensor = self.leave(states[:, -1])
        return answers


def measure(reads_energies: bool, epochs: int) -> list[object]:
    torch.manual_seed(0)
    data, model = with_validation(mnist(TRAIN + VALIDATION), VALIDATION), Reader(reads_energies)
    fit(model, Training(TrainingSettings(epochs=epochs, lr=2e-3), data.task.loss), data)
    params = Params(recurrent="int8", arithmetic="int8")
    findings = quantization.prepare(params, data)
    made = quantization.optimize(model.eval(), params, data, findings)
    measured = quantization.measure(made, params, findings)
    note = measured["recurrent"]
    assert isinstance(note, Note)
    print(tabulate(note.table, headers="keys"), note.text, sep="\n")
    batch = next(iter(data.batches("test", batch_size=TEST)))
    images, classes = batch.inputs, batch.targets
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        plain, integer = opened(model, images, first)[0], opened(made, images, second)[0]
        before, after = plain(images), integer(images)
        with torch.no_grad():
            error = relative_error(after, made(images))
        accuracies = [f"{float((each.argmax(1) == classes).float().mean()):.4f}" for each in (before, after)]
        agreement = float((before.argmax(1) == after.argmax(1)).float().mean())
        times = [times_ms([plain, integer], images[:size], ROUNDS) for size in BATCHES]
    ratios = [text for each in times for text in (ratio(each), each[1].min() / each[0].min())]
    return ["energies" if reads_energies else "pixels", *accuracies, agreement, error, *ratios]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)
    rows = [measure(reads_energies, epochs) for reads_energies in (False, True)]
    heads = ["inputs", "float accuracy", "int8 accuracy", "same answers", "error against the model"]
    print(
        tabulate(rows, [*heads, *(f"{what} @{size}" for size in BATCHES for what in ("time to float", "of the best"))])
    )


if __name__ == "__main__":
    main()
