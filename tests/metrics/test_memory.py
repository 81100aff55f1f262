"""Peak memory of one inference, measured in another process."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from toolkit import model_files as artifact
from toolkit.importing import import_file
from toolkit.metrics import MemoryMeter
from toolkit.models import lenet5
from toolkit.tasks import Batch, Classification

pytestmark = [
    pytest.mark.memory,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only"),
]
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def meter():
    with MemoryMeter() as meter:
        yield meter


def batch(*shape: int) -> Batch:
    return Batch(torch.rand(*shape), torch.zeros(shape[0], dtype=torch.int64), torch.arange(shape[0]))


def save(model: nn.Module, folder: Path) -> nn.Module:
    for name, content in artifact.pack(model).items():
        (folder / name).write_bytes(content)
    return model


def peak(meter, model, folder, inputs) -> int | None:
    return meter.peak_bytes(folder, save(model, folder), Classification(), inputs)


def test_weights_and_activations_are_counted(meter, tmp_path):
    weights = 1000 * 4000 * 4
    found = peak(meter, nn.Sequential(nn.Linear(1000, 4000)), tmp_path, batch(1, 1000))
    assert weights - MEGABYTE < found < weights + 2 * MEGABYTE
    outputs = 2000 * 4000 * 4
    found = peak(meter, nn.Sequential(nn.Linear(1000, 4000)), tmp_path, batch(2000, 1000))
    # MKL keeps the working space of a product: 3.4 MB with AVX2, 6.8 MB with AVX-512 and AMX.
    assert weights + outputs - MEGABYTE < found < weights + outputs + 8 * MEGABYTE


def test_what_is_freed_during_the_inference_is_in_the_peak(meter, tmp_path):
    narrow = nn.Sequential(nn.Linear(10, 1_000_000), nn.MaxPool1d(1000), nn.Linear(1000, 2))
    weights = sum(parameter.nbytes for parameter in narrow.parameters())
    found = peak(meter, narrow, tmp_path, batch(8, 10))
    # The kernel counts resident pages per thread, and adds them up late: a few are missing at times.
    assert found > weights + 8 * 1_000_000 * 4 - MEGABYTE


@pytest.mark.slow
def test_a_measurement_does_not_depend_on_the_one_before(meter, tmp_path):
    first = peak(meter, lenet5(), tmp_path, batch(1, 1, 28, 28))
    peak(meter, nn.Sequential(nn.Flatten(), nn.Linear(784, 9000)), tmp_path, batch(64, 784))
    again = peak(meter, lenet5(), tmp_path, batch(1, 1, 28, 28))
    assert again == pytest.approx(first, rel=0.1)


def test_classes_from_a_file_of_the_users(meter, tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(500, 500)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x)\n"
    )
    assert peak(meter, import_file(file).Net(), tmp_path, batch(1, 500)) > 500 * 500 * 4


def test_the_settings_of_a_network_of_the_users_are_opened_with_it(meter, tmp_path):
    (tmp_path / "settings_of_net.py").write_text("class Settings:\n    width = 500\n")
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "from settings_of_net import Settings\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(500, Settings.width)\n"
        "        self.settings = Settings()\n"
    )
    assert peak(meter, import_file(file).Net(), tmp_path, batch(1, 500)) > 500 * 500 * 4


class Unpicklable(Classification):
    def __reduce__(self):
        raise TypeError("this task cannot be pickled")


def test_where_it_cannot_be_measured_there_is_no_number_and_a_reason(meter, tmp_path, caplog):
    model = save(lenet5(), tmp_path)
    assert meter.peak_bytes(tmp_path, model, Unpicklable(), batch(1, 1, 28, 28)) is None
    assert "this task cannot be pickled" in caplog.text
    assert meter.peak_bytes(tmp_path, model, Classification(), batch(1, 7)) is None
    assert "cannot measure the memory of one inference" in caplog.text
    assert meter.peak_bytes(tmp_path, model, Classification(), batch(1, 1, 28, 28)) is not None


@pytest.mark.smoke
def test_a_process_that_dies_is_no_failure(tmp_path):
    with MemoryMeter() as meter:
        meter._worker.kill()
        meter._worker.wait()
        assert peak(meter, lenet5(), tmp_path, batch(1, 1, 28, 28)) is None
