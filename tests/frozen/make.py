"""Writes the frozen artifacts: small files that every later version of the toolkit must open to the same outputs.

    python tests/frozen/make.py                  # all of them, for a version that has none yet
    python tests/frozen/make.py run checkpoint   # these two again, in place of those that are there

They lie in a folder named after the version that wrote them. Once a version is released, nothing in its folder is ever
written again: a later format gets a folder of its own, for which `VERSION` moves on. Each model lies beside an example,
its input and the outputs that it gave, with the tolerance that outputs may need on another processor.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import toolkit_codebook
import toolkit_quantization
import torch
from test_frozen import NETS, outputs
from toolkit_quantization.self_compiling import Compiled
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.models.swin_transformer import ShiftedWindowAttention

import toolkit
from toolkit import cutting, masks, model_files
from toolkit.interruption import Interrupted, Stop
from toolkit.model_files.packed import pack
from toolkit.promises import Promises
from toolkit.rows import Note
from toolkit.sources import Source
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.storage.files import write_file
from toolkit.storage.results import Result, as_steps, pack_result
from toolkit.storage.run_directory import RunDirectory
from toolkit.training import Training, TrainingSettings, fit
from toolkit.window_attention import narrow_windows

VERSION = "0.1"
FOLDER = Path(__file__).parent / VERSION
EXACT, ROUNDED = 0.0, 1e-5  # sums of small multiples of 1/16 are exact in any order; other sums are not
KEY = "frozen"  # which determines the records
SUMS = "SHA256SUMS"  # for `sha256sum --check`

PICTURES = torch.randint(-4, 5, (3, 1, 8, 8), generator=torch.Generator().manual_seed(1)) / 4
SEQUENCES = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
SQUARES = torch.randn(2, 6, 6, 8, generator=torch.Generator().manual_seed(4))
WORDS = torch.randint(20, (3, 6), generator=torch.Generator().manual_seed(3))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))


def cnn() -> nn.Sequential:
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.weight)
    layers = nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)
    return nn.Sequential(*layers)


@torch.no_grad()
def half_empty() -> nn.Sequential:
    """Every other input has no weight: processors without VNNI add products of int8 in pairs, which could saturate."""
    model = mlp()
    for layer in (model[1], model[3]):
        layer.get_parameter("weight")[:, 1::2] = 0
    return model


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[3].weight = model[1].weight
    return model


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def one_headed() -> nn.Module:
    """An encoder whose second head is cut out."""
    model, head = encoder(), torch.arange(4)
    rows = torch.cat([head, head + 8, head + 16])
    kept = {"in_proj_weight": {0: rows}, "in_proj_bias": {0: rows}, "out_proj.weight": {1: head}}
    cutting.cut(model, {f"self_attn.{path}": indices for path, indices in kept.items()})
    return model


def windowed() -> nn.Module:
    """Attention in shifted windows, whose second head is cut out."""
    model, head = nn.Sequential(ShiftedWindowAttention(8, [4, 4], [2, 2], num_heads=2)), torch.arange(4)
    rows = torch.cat([head, head + 8, head + 16])
    kept = {"qkv.weight": {0: rows}, "qkv.bias": {0: rows}, "proj.weight": {1: head}}
    kept["relative_position_bias_table"] = {1: torch.arange(1)}
    cutting.cut(model, {f"0.{path}": indices for path, indices in kept.items()})
    attention: Any = model[0]
    attention.num_heads = 1
    narrow_windows(attention)
    return model


def words() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 4))


def bags() -> nn.Sequential:
    return nn.Sequential(nn.EmbeddingBag(20, 8), nn.Linear(8, 4))


def built() -> nn.Module:
    """A network that a file refers to by the source that builds it."""
    return Source(source=NETS, args={"channels": 3}).build()


@torch.no_grad()
def coarse(model: nn.Module) -> nn.Module:
    """The model with weights that are multiples of 1/16, whose sums are exact."""
    for parameter in model.parameters():
        parameter.mul_(16).round_().div_(16)
    return model


def masked(model: nn.Module) -> nn.Module:
    weights = [weight for weight in masks.named_weights(model) if weight.value.dim() > 1]
    masks.apply(model, {weight.path: weight.value.abs() > weight.value.abs().mean() for weight in weights})
    return model


def shared(model: nn.Module) -> nn.Module:
    params = toolkit_codebook.Params(bits=3)
    return toolkit_codebook.optimize(model=model, params=params, prepared=toolkit_codebook.prepare())


def quantized(model: nn.Module, **params: Any) -> nn.Module:
    return toolkit_quantization.convert(model.eval(), toolkit_quantization.Params(**params))


def static(model: nn.Module) -> nn.Module:
    """With calibrated ranges, as a stage leaves it."""
    params = toolkit_quantization.Params(activations="static", max_drop=100.0)
    data = toolkit.Data(train=(PICTURES, torch.arange(3)), batch_size=3)
    findings = toolkit_quantization.prepare(params=params, data=data)
    model = toolkit_quantization.optimize(model=model, params=params, data=data, prepared=findings)
    return toolkit_quantization.finish(model=model, params=params, prepared=findings)


def training_form() -> nn.Module:
    """As a checkpoint keeps it: with parametrizations of the toolkit, of a technique and of torch."""
    model = shared(masked(coarse(mlp())))
    model.add_module("4", parametrizations.weight_norm(nn.Linear(4, 4)))
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, float]] = {
    "float": (lambda: coarse(mlp()), PICTURES, EXACT),
    "convolution": (cnn, PICTURES, ROUNDED),
    "tied": (lambda: coarse(tied()), PICTURES, EXACT),
    "built": (lambda: coarse(built()), PICTURES, EXACT),
    "masked": (lambda: masked(coarse(mlp())), PICTURES, EXACT),
    "codebook": (lambda: shared(masked(mlp())), PICTURES, ROUNDED),
    "lstm": (lambda: nn.LSTM(8, 6, num_layers=2, batch_first=True), SEQUENCES, ROUNDED),
    "attention": (encoder, SEQUENCES, ROUNDED),
    "int8-linear": (lambda: quantized(mlp(), arithmetic="int8"), PICTURES, ROUNDED),
    "int8-convolution": (lambda: quantized(cnn(), arithmetic="float"), PICTURES, ROUNDED),
    "int8-lstm": (
        lambda: quantized(nn.LSTM(8, 6, batch_first=True), arithmetic="float"),
        SEQUENCES,
        ROUNDED,
    ),
    "int8-recurrent": (
        lambda: quantized(nn.LSTM(8, 6, batch_first=True), arithmetic="int8", recurrent="int8"),
        SEQUENCES,
        ROUNDED,
    ),
    "narrow-attention": (one_headed, SEQUENCES, ROUNDED),
    "window-attention": (windowed, SQUARES, ROUNDED),
    "int8-attention": (lambda: quantized(encoder(), arithmetic="int8"), SEQUENCES, ROUNDED),
    "int8-attention-stored": (lambda: quantized(encoder(), arithmetic="float"), SEQUENCES, ROUNDED),
    "int8-embedding": (lambda: quantized(words(), arithmetic="float"), WORDS, ROUNDED),
    "int4": (lambda: quantized(cnn(), dtype="int4"), PICTURES, ROUNDED),
    "int2": (lambda: quantized(cnn(), dtype="int2"), PICTURES, ROUNDED),
    "int4-bag": (lambda: quantized(bags(), dtype="int4"), WORDS, ROUNDED),
    "float16": (lambda: quantized(coarse(mlp()), dtype="float16"), PICTURES, EXACT),
    "bfloat16": (lambda: quantized(coarse(mlp()), dtype="bfloat16"), PICTURES, EXACT),
    "torch": (lambda: quantized(mlp(), engine="torch"), PICTURES, 1e-3),
    "torchao": (lambda: quantized(half_empty(), engine="torchao"), PICTURES, ROUNDED),
    "static": (lambda: static(cnn()), PICTURES, ROUNDED),
    "compiled": (lambda: Compiled(quantized(mlp(), arithmetic="int8")), PICTURES, ROUNDED),
}
RECIPE = """
name = "frozen"
[model]
source = "mlp"
args = { hidden = [8], inputs = 64, classes = 4 }
training = { epochs = 2, lr = 1e-2 }
[data]
source = "toolkit.testing:toy_data"
[measure]
budget = 0.05
[[stages]]
technique = "pruning"
params = { sparsity = 0.5 }
finetune = { epochs = 1, lr = 1e-2 }
[[stages]]
technique = "quantization"
params = { arithmetic = "int8" }
"""
# Of a run, what is read again; the rest is for eyes.
RUN_FILES = ("report.json", "details.json", "recipe.toml", "model.skeleton", "model.safetensors")


def write_model(name: str, folder: Path) -> None:
    """A model as plain files and as a packed one, and its example."""
    make, inputs, tolerance = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    for file, content in model_files.pack(model).items():
        (folder / file).write_bytes(content)
    (folder / model_files.PACKED).write_bytes(pack(model))
    write_example(folder, tolerance, input=inputs, output=outputs(model, inputs))


def write_example(folder: Path, tolerance: float, **tensors: Tensor) -> None:
    content = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(content, folder / "example.safetensors", {"tolerance": str(tolerance)})


def write_checkpoint(folder: Path) -> None:
    """The record of a finished stage, and that of a training of its model, stopped after three of eight steps."""
    torch.manual_seed(0)
    model, settings = training_form(), TrainingSettings(epochs=2, lr=1e-2)
    promises = Promises({"1.weight": {"pruning": masks.current(model)["1.weight"]}}, {})
    values = {"accuracy": 0.5, "pruning.layers": Note("by layer", [{"layer": "1", "zeros": 0.5}])}
    result = Result(model, values, promises, as_steps([(1.0, 1e-2)]), settings)
    write_file(folder / "row-1.record", pack_result(result, KEY, "frozen: pruning").write)
    expected = outputs(masks.clone(model).eval(), PICTURES)

    samples, targets = torch.randn(32, 1, 8, 8), torch.arange(32) % 4
    data, stop = toolkit.Data(train=(samples, targets), batch_size=8), Stop()

    def stop_at_three(step: int, steps: int, loss: float, lr: float) -> None:
        if step == 3:
            stop.handle(signal.SIGTERM, None)

    with tempfile.TemporaryDirectory() as kept, suppress(Interrupted):
        directory, training = RunDirectory(Path(kept)), Training(settings, data.task.loss)
        with suppress(Interrupted):
            fit(model, training, data, stop_at_three, TrainingCheckpoints(directory, KEY, stop))
        (record,) = Path(kept).rglob("training-*.record")
        shutil.copy(record, folder / "training-0.record")
        fit(model, training, data, checkpoints=TrainingCheckpoints(directory, KEY, Stop()))
    trained = {"samples": samples, "targets": targets, "trained": outputs(model, PICTURES)}
    write_example(folder, 1e-4, input=PICTURES, output=expected, **trained)


def write_run(folder: Path) -> None:
    """What a finished run leaves, and the numbers in its report."""
    with tempfile.TemporaryDirectory() as place:
        recipe, directory = Path(place, "recipe.toml"), Path(place, "run")
        recipe.write_text(RECIPE)
        report = toolkit.run(recipe, output=directory, cache=False)
        for name in RUN_FILES:
            shutil.copy(directory / name, folder / name)
    content = json.loads((folder / "report.json").read_text())
    content["environment"] |= {"platform": "Linux", "processor": "x86-64", "memory_bytes": 16 << 30}  # nobody's machine
    (folder / "report.json").write_text(json.dumps(content, indent=1) + "\n")
    numbers = {row.stage: {name: row[name] for name in ("accuracy", "loss", "size_bytes")} for row in report.rows}
    (folder / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    write_example(folder, ROUNDED, input=PICTURES, output=outputs(toolkit.load(folder), PICTURES))


def main(names: list[str]) -> None:
    """Write the artifacts of these names in place of what is there, or all of them where there are none."""
    writers: dict[str, Callable[[Path], None]] = {name: partial(write_model, name) for name in MODELS}
    writers |= {"checkpoint": write_checkpoint, "run": write_run}
    if not names and FOLDER.exists():
        sys.exit(f"{FOLDER} exists: name the artifacts to be written again, of {', '.join(writers)}")
    for name in names or writers:
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        (FOLDER / name).mkdir(parents=True)
        writers[name](FOLDER / name)
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(FOLDER).as_posix()}" for file in files
    ]
    (FOLDER / SUMS).write_text("\n".join(lines) + "\n")
    print(f"{len(files)} files of {sum(file.stat().st_size for file in files):,} bytes in {FOLDER}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
