"""Two jobs by this toolkit and by other tools: a trained network as an int8 ONNX file, and with fewer channels.

`python tests/benchmarks/peers.py [--peer NAME] [--epochs N] [--photos FOLDER --weights FILE]`. The network is a LeNet-5
that is trained first; with photos of 32 pixels it is a trained ResNet-20. The other tools are installed by
`pip install torchao torch-pruning nncf`; one that is missing or cannot do the job is a line with its reason. All
files run in ONNX Runtime on one thread and take turns. Lines are those of a function's body here, or of a recipe, and
for the tools without a training of their own include the loop.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import safetensors.torch
import torch
from tabulate import tabulate
from torch import nn
from torch.nn.functional import cross_entropy

import toolkit
from toolkit import Data, Source
from toolkit.data.folder import image_folder
from toolkit.data.mnist import mnist
from toolkit.models import lenet5
from toolkit.timing import time_in_turn
from toolkit.training import Training, TrainingSettings, fit

CALIBRATED_SAMPLES, BUDGET_S = 512, 6.0
Session = Callable[[np.ndarray], np.ndarray]
RESNET = Path(__file__).parents[2] / "recipes/cifar/resnet.py"
DIGITS = """
[model]
source = "lenet5"
weights = "net.safetensors"
[data]
source = "mnist"
"""
PHOTOS = f"""
[model]
source = "{RESNET}:resnet20"
weights = "net.safetensors"
[data]
source = "image-folder"
args = {{ root = "ROOT", size = 32 }}
"""
INT8_STAGE = """
[[stages]]
technique = "quantization"
params = { activations = "static" }
[[exports]]
runtime = "onnxruntime"
"""
CHANNELS_STAGE = """
validation = 0
[[stages]]
technique = "channels"
params = { amount = AMOUNT, of = "macs", criterion = "taylor", scope = "layer", exclude = ALONE }
finetune = { epochs = 2, lr = 1e-3 }
[[exports]]
runtime = "onnxruntime"
"""


@dataclass(frozen=True)
class Subject:
    """What all tools work on.

    `tables` are the model and the data in a recipe, `amount` is the share of the MACs that goes, and `alone` names the
    layers whose channels stay for both tools. Torch-Pruning removes half the channels of the others, which is as much.
    """

    model: nn.Module
    data: Data
    tables: str
    amount: float
    alone: tuple[str, ...]


def digits(epochs: int) -> Subject:
    torch.manual_seed(0)
    model, data = lenet5(), mnist()
    fit(model, Training(TrainingSettings(epochs=epochs, lr=2e-3), data.task.loss), data)
    return Subject(model.eval(), data, DIGITS, 0.75, ("fc2",))


def photos(folder: str, weights: str) -> Subject:
    """A ResNet-20; Torch-Pruning cannot cut its residual streams, whose shortcuts pad channels."""
    model = Source(source=f"{RESNET}:resnet20", weights=weights).build().eval()
    streams = [name for name, _ in model.named_modules() if name.endswith("conv2")]
    tables = PHOTOS.replace("ROOT", str(Path(folder).resolve()))
    return Subject(model, image_folder(folder, 32), tables, 0.5, ("conv1", *streams, "linear"))


def float_file(subject: Subject, folder: Path) -> None:
    example = subject.data.example(2).inputs
    batch = torch.export.Dim("batch")
    options: Any = {"dynamo": True, "external_data": False, "input_names": ["images"]}
    torch.onnx.export(
        subject.model, (example,), folder / "model.onnx", dynamic_shapes=({0: batch},), verbose=False, **options
    )


def ort_int8(subject: Subject, folder: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"images": subject.data.example(CALIBRATED_SAMPLES).inputs.numpy()}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    float_file(subject, folder)
    quant_pre_process(folder / "model.onnx", folder / "prepared.onnx")
    quantize_static(
        folder / "prepared.onnx", folder / "model.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True
    )


def nncf_int8(subject: Subject, folder: Path) -> None:
    import nncf

    float_file(subject, folder)
    images = subject.data.example(CALIBRATED_SAMPLES).inputs.numpy()
    samples = nncf.Dataset([{"images": images[at : at + 1]} for at in range(len(images))])
    quantized = nncf.quantize(onnx.load(folder / "model.onnx"), samples, subset_size=CALIBRATED_SAMPLES)
    onnx.save(quantized, folder / "model.onnx")


def torchao_int8(subject: Subject, folder: Path) -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(subject.model, Int8DynamicActivationInt8WeightConfig())
    float_file(subject, folder)


def torch_pruning_channels(subject: Subject, folder: Path) -> None:
    import torch_pruning

    model, data = subject.model, subject.data
    example = data.example(64)
    importance = torch_pruning.importance.GroupTaylorImportance()
    pruner = torch_pruning.pruner.MetaPruner(
        model, example.inputs, importance, pruning_ratio=0.5, ignored_layers=[*map(model.get_submodule, subject.alone)]
    )
    cross_entropy(model(example.inputs), example.targets).backward()
    pruner.step()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    steps = 2 * len(data.batches("train"))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    model.train()
    for _ in range(2):
        for batch in data.training_batches(torch.randperm(data.samples("train")), data.batch_size):
            optimizer.zero_grad()
            cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    float_file(subject, folder)


def of_stage(stage: str, subject: Subject, folder: Path) -> None:
    safetensors.torch.save_file(subject.model.state_dict(), folder / "net.safetensors")
    filled = stage.replace("AMOUNT", str(subject.amount)).replace("ALONE", json.dumps(subject.alone))
    (folder / "recipe.toml").write_text(subject.tables + filled)
    toolkit.run(folder / "recipe.toml", {"measure.budget": 0.1}, output=folder / "run", cache=False)
    (folder / "run/exports/onnxruntime/model.onnx").rename(folder / "model.onnx")


def lines_in(recipe: str) -> int:
    return sum(bool(line) for line in recipe.splitlines())


JOBS: dict[str, tuple[str, Callable[[Subject, Path], None], int]] = {
    "float": ("none", float_file, 0),
    "toolkit, int8": ("int8", partial(of_stage, INT8_STAGE), lines_in(DIGITS + INT8_STAGE)),
    "onnxruntime.quantization": ("int8", ort_int8, 0),
    "nncf": ("int8", nncf_int8, 0),
    "torchao": ("int8", torchao_int8, 0),
    "toolkit, channels": ("channels", partial(of_stage, CHANNELS_STAGE), lines_in(DIGITS + CHANNELS_STAGE)),
    "torch-pruning": ("channels", torch_pruning_channels, 0),
}


def lines_of(peer: str) -> int:
    """The lines of the recipe, or those of the function's body and of the export that it calls."""
    _, write, lines = JOBS[peer]
    if lines:
        return lines
    body = [line for line in inspect.getsource(write).splitlines()[1:] if line.strip()]
    exported = len(inspect.getsource(float_file).splitlines()) - 1 if write is not float_file else 0
    return len(body) + exported


def opened(file: Path) -> Session:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def made(peers: list[str], subject: Subject, folder: Path) -> tuple[dict[str, tuple[Session, int]], dict[str, str]]:
    """The files of the peers as sessions with their bytes, and the reasons of those that made none."""
    files, reasons = dict[str, tuple[Session, int]](), dict[str, str]()
    for peer in peers:
        place = folder / peer
        place.mkdir()
        try:
            JOBS[peer][1](replace(subject, model=copy.deepcopy(subject.model)), place)
            files[peer] = opened(place / "model.onnx"), (place / "model.onnx").stat().st_size
        except Exception as error:
            reasons[peer] = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return files, reasons


def rows_of(files: dict[str, tuple[Session, int]], reasons: dict[str, str], data: Data) -> list[list[object]]:
    batches = list(data.batches("test"))
    one = batches[0].inputs[:1].numpy()
    timings = time_in_turn({peer: partial(run, one) for peer, (run, _) in files.items()}, BUDGET_S, warm_up=True)
    rows: list[list[object]] = []
    for peer, (run, size) in files.items():
        wrong = sum(int((run(each.inputs.numpy()).argmax(1) != each.targets.numpy()).sum()) for each in batches)
        low, high = timings.ratio_interval(peer, "float")
        speed = f"{timings.ratio(peer, 'float'):.2f} ({low:.2f} to {high:.2f})"
        rows.append([JOBS[peer][0], peer, lines_of(peer), f"{1e2 - wrong / 1e2:.2f} %", size, speed])
    return rows + [[JOBS[peer][0], peer, lines_of(peer), f"no file: {why}"] for peer, why in reasons.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", action="append", choices=[peer for peer in JOBS if peer != "float"])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--photos")
    parser.add_argument("--weights")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    peers = ["float", *(asked.peer or [peer for peer in JOBS if peer != "float"])]
    subject = photos(asked.photos, asked.weights) if asked.photos else digits(asked.epochs)
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(*made(peers, subject, Path(folder)), subject.data)
    print(tabulate(sorted(rows, key=str), ["job", "peer", "lines", "right", "bytes", "time over float, batch 1"]))


if __name__ == "__main__":
    main()
