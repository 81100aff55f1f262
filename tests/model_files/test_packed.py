"""Packed models: the same bits when they are opened, as few bytes as were earned, and files made up by somebody."""

import builtins
import json
import pickle
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toolkit_codebook
import toolkit_pruning
import toolkit_quantization
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import toolkit
from toolkit import masks, models
from toolkit import model_files as artifact
from toolkit.cli import main
from toolkit.errors import ArtifactError, InputError, ToolkitError
from toolkit.model_files.packed import file as packed_file
from toolkit.model_files.packed import layers, pack, slimmed, tensors
from toolkit.model_files.packed.streams import DamagedError, Reader, Writer
from toolkit.runner.evaluation import evaluate
from toolkit.testing import TOY_MODELS, toy_cnn, toy_data, toy_mlp

START = 8  # after mark and checksum


def opened(content: bytes, tmp_path: Path, **options: Any) -> nn.Module:
    path = tmp_path / "model.packed"
    path.write_bytes(content)
    return toolkit.load(path, **options)


def with_checksum(content: bytes) -> bytes:
    """The file with a checksum that is right: what only somebody does who wants it to be opened."""
    return content[:4] + zlib.crc32(content[START:]).to_bytes(4, "little") + content[START:]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {path: tensor for path, _, _, tensor in artifact.named_tensors(model)}


def assert_same(model: nn.Module, other: nn.Module) -> None:
    ours, others = tensors_of(masks.folded(model)), tensors_of(other)
    assert ours.keys() == others.keys()
    for path, tensor in ours.items():
        assert tensor.dtype == others[path].dtype
        assert torch.equal(tensor, others[path]), path


def pruned(model: nn.Module, sparsity: float = 0.9) -> nn.Module:
    settings = toolkit_pruning.Params(sparsity=sparsity)
    return toolkit_pruning.optimize(model=masks.clone(model), params=settings, data=toy_data(), prepared=[])


def shared(model: nn.Module, **params: Any) -> nn.Module:
    settings, prepared = toolkit_codebook.Params(**params), toolkit_codebook.prepare()
    return toolkit_codebook.optimize(model=masks.clone(model), params=settings, prepared=prepared)


def quantized(model: nn.Module) -> nn.Module:
    return toolkit_quantization.convert(model.eval(), toolkit_quantization.Params(engine="toolkit"))


def through(*made: Tensor) -> tuple[list[Tensor], int]:
    """Tensors written and read again, and the bytes in between."""
    writer = Writer()
    for write_symbols in [tensors.write(writer, tensor) for tensor in made]:
        write_symbols()
    content = writer.content()
    reader = Reader(content)
    readers = [tensors.read(reader, tensor.to("meta")) for tensor in made]
    reader.begin_symbols()
    return [read() for read in readers], len(content)


# The same bits


@pytest.mark.parametrize("change", [masks.clone, pruned, shared, quantized])
@pytest.mark.parametrize("name", TOY_MODELS)
@pytest.mark.smoke
def test_a_model_comes_back_bit_by_bit(name: str, change: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = change(TOY_MODELS[name]()).eval()
    allow = [type(module) for module in masks.folded(model).modules()]
    again = opened(pack(model), tmp_path, allow=allow)
    assert_same(model, again)
    assert not again.training
    data = toy_data()
    with torch.no_grad():
        try:
            expected = data.task.logits(data.task.forward(model, data.example(4)))
        except (RuntimeError, ValueError):  # a toy that takes other inputs
            return
        assert torch.equal(data.task.logits(data.task.forward(again, data.example(4))), expected)


GENERATOR = torch.Generator().manual_seed(1)
DENSE = torch.randn(60, 50, generator=GENERATOR)
SPARSE = DENSE.masked_fill(torch.rand(60, 50, generator=GENERATOR) > 0.1, 0.0)
INT8 = (DENSE * 20).clamp(-127, 127).to(torch.int8)
TENSORS = {
    "dense": DENSE,
    "float16 in float32": DENSE.half().float(),
    "sparse": SPARSE,
    "sparse and shared": SPARSE.sign() * 0.3,
    "int8": INT8,
    "float16": DENSE.half(),
    "bfloat16": SPARSE.bfloat16(),
    "float64": DENSE.double(),
    "complex": torch.complex(DENSE, SPARSE),
    "bool": DENSE > 0,
    "zeros": torch.zeros(30, 3, 5, 5),
    "one value": torch.full((7, 9), 0.1),
    "negative zero": torch.tensor([[0.0, -0.0, 1.0], [-0.0, 2.0, 0.0]]),
    "infinite": torch.tensor([float("-inf"), 0.0, 1e30]),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 4),
    "one row": SPARSE[:1],
    "beyond float16": torch.tensor([1e6, 1.0]),
    "odd table": torch.tensor([1.0, 2.0, 4.0] * 20),
    "more than a byte's values": torch.arange(600).remainder(300).repeat(40),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back_bit_by_bit(name: str) -> None:
    tensor = TENSORS[name]
    (again,), _ = through(tensor)
    assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
    assert again.numpy(force=True).tobytes() == tensor.numpy(force=True).tobytes() if name != "bfloat16" else True
    assert torch.equal(again, tensor)


def test_many_tensors_in_one_stream_and_more_symbols_than_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.model_files.packed.streams.PART", 1000)
    made = list(TENSORS.values())
    again, _ = through(*made)
    assert all(torch.equal(one, other) for one, other in zip(made, again, strict=True))


def test_packing_is_the_same_every_time() -> None:
    model = pruned(toy_cnn())
    assert pack(model) == pack(masks.clone(model)) == pack(masks.folded(model))


# As few bytes as were earned


def entropy_bytes(values: Tensor) -> float:
    counts = np.unique(values.numpy(), return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


@pytest.mark.parametrize("name", ["int8", "sparse and shared", "bool"])
def test_symbols_take_their_entropy_and_a_few_bytes(name: str) -> None:
    _, size = through(TENSORS[name])
    values = TENSORS[name].unique()
    table = len(values) * (values.element_size() + 0.5)
    assert size <= 1.02 * entropy_bytes(TENSORS[name]) + table + 12


def test_sparse_floats_take_their_positions_and_themselves() -> None:
    _, size = through(SPARSE)
    kept = int((SPARSE != 0).sum())
    assert size <= 4 * kept + 1.02 * entropy_bytes(SPARSE != 0) + 12


def test_positions_cost_less_where_columns_are_empty() -> None:
    columns = torch.rand(300, 400, generator=GENERATOR) < torch.linspace(0, 1, 400) ** 4
    _, size = through(columns.float())
    assert size < 0.7 * entropy_bytes(columns)


def test_values_that_fit_into_float16_take_two_bytes() -> None:
    assert through(TENSORS["float16 in float32"])[1] < 0.51 * through(DENSE)[1]


def test_a_network_of_plain_layers_has_a_skeleton_of_a_few_bytes() -> None:
    model = models.lenet5()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert len(pack(model)) < 110
    assert len(pack(masks.folded(pruned(model)))) == len(pack(model))


def test_the_order_of_a_layers_parameters_does_not_matter(tmp_path: Path) -> None:
    model = masks.folded(pruned(toy_cnn())).eval()
    assert layers.describe(model) is not None
    assert_same(model, opened(pack(model), tmp_path))


def test_deep_compression_in_a_file() -> None:
    model = models.lenet_300_100()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    size = len(pack(shared(pruned(model, 0.92), bits=5, overrides={"fc1": 3})))
    assert 1_066_440 / size > 40


# Made smaller before


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        )


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*Normed())
    for _ in range(20):
        model(torch.randn(16, 1, 8, 8) * 2 + 1)
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def test_reduced_norms_compute_the_same_and_take_less() -> None:
    model = normed()
    slim = slimmed(model, norms=True)
    inputs = torch.randn(8, 1, 8, 8)
    torch.testing.assert_close(slim(inputs), model(inputs), atol=1e-5, rtol=1e-5)
    assert len(pack(model)) - len(pack(slim)) > 4 * (3 * 6 + 2 * 4) - 30  # two vectors a norm, and one bias
    assert torch.equal(slim.get_parameter("3.weight"), model.get_parameter("3.weight"))


def test_half_rounds_what_is_named() -> None:
    model = normed()
    slim = slimmed(model, half=["*bias", "*running_*"])
    assert torch.equal(slim.get_parameter("7.bias"), model.get_parameter("7.bias").half().float())
    assert torch.equal(slim.get_parameter("7.weight"), model.get_parameter("7.weight"))


def test_what_float16_cannot_hold_and_what_there_is_not() -> None:
    model = normed()
    with pytest.raises(InputError, match=r"no tensor matches 'fc\*'; known: 0.weight"):
        slimmed(model, half=["fc*"])
    nn.init.constant_(model.get_parameter("7.bias"), 1e5)
    with pytest.raises(InputError, match=r"'7\.bias' has values that float16 cannot hold"):
        slimmed(model, half=["*"])


# Files made up by somebody


def packed_with(skeleton: Any, rest: Callable[[Writer], None], kind: int = packed_file.PLAIN) -> bytes:
    """A packed file with a skeleton and whatever follows."""
    writer = Writer()
    content = skeleton if isinstance(skeleton, bytes) else json.dumps(skeleton).encode()
    compressed = zlib.compress(content, wbits=-15)
    writer.number(kind)
    writer.number(len(compressed))
    writer.raw(compressed)
    rest(writer)
    return with_checksum(packed_file.MAGIC + bytes(4) + writer.content())


def numbers(*values: int) -> Callable[[Writer], None]:
    def write(writer: Writer) -> None:
        for value in values:
            writer.number(value)

    return write


PICKLED_CALL = pickle.dumps({"a": builtins.eval}, protocol=2)
MADE_UP: dict[str, tuple[bytes, str]] = {
    "too large": (packed_with([["Linear", 10**5, 10**5]], numbers(0, 4, 1)), "too many to be unpacked"),
    "not a layer": (packed_with([["LSTM", 3, 4]], numbers(0)), "'LSTM', which is not one of the plain layers"),
    "impossible": (packed_with([["Linear", -3, 4]], numbers(0)), "its layers cannot be built"),
    "no list": (packed_with({"a": 3}, numbers(0)), "a value of type int in place of a layer"),
    "table": (packed_with([["Linear", {"a": 1}, 3]], numbers(0)), "has a table for an argument"),
    "long list": (packed_with([["LayerNorm", [1] * 50]], numbers(0)), "a list for an argument that no layer takes"),
    "deep": (packed_with(json.loads("[" * 50 + "]" * 50), numbers(0)), "nested more than 20 deep"),
    "deeper": (packed_with(b"[" * 100_000, numbers(0)), "its layers cannot be built"),
    "many": (packed_with([["ReLU"]] * 10_001, numbers(0)), "more than 10000 layers"),
    "bomb": (packed_with(b" " * (6 << 20), numbers(0)), "longer than 4 MiB"),
    "calls": (packed_with(PICKLED_CALL, numbers(0), packed_file.PICKLED), "'builtins.eval'"),
    "unknown kind": (packed_with([], numbers(0), kind=7), "of the unknown kind 7"),
    "other form": (packed_with([["Linear", 2, 3]], numbers(0, 99)), "has the unknown form 99"),
    "levels alone": (packed_with([["Linear", 2, 3]], numbers(0, 2)), "has the unknown form 2"),
    "no table": (packed_with([["Linear", 2, 3]], numbers(0, 4, 0)), "a table in it has 0 values"),
    "long table": (packed_with([["Linear", 2, 3]], numbers(0, 4, 1 << 40)), "a table in it has 1099511627776"),
    "short": (packed_with([["Linear", 2, 3]], numbers(0, 4, 200)), "800 bytes should follow"),
    "endless number": (packed_with([["Linear", 2, 3]], lambda writer: writer.raw(b"\xff" * 20)), "has no end"),
    "ties to nowhere": (packed_with([["Linear", 2, 3]], numbers(1, 0, 9)), "ties tensors that it does not have"),
    "ties to itself": (packed_with([["Linear", 2, 3]], numbers(1, 0, 0)), "in a circle"),
    "many ties": (packed_with([["Linear", 2, 3]], numbers(1 << 50)), "bytes should follow|ties tensors"),
    "half of integers": (
        packed_with([["BatchNorm1d", 1]], numbers(0, *[4, 1, 0, 0, 0, 0] * 4, 8)),
        "is written in float16",
    ),
}


@pytest.mark.parametrize("name", MADE_UP)
def test_a_file_that_was_made_up_is_refused(name: str, tmp_path: Path) -> None:
    content, message = MADE_UP[name]
    with pytest.raises(ArtifactError, match=message):
        opened(content, tmp_path)


def test_more_positions_than_it_says(tmp_path: Path) -> None:
    def rest(writer: Writer) -> None:
        numbers(0, 1)(writer)
        writer.raw((60000).to_bytes(2, "little"))  # nearly every one of six entries
        numbers(1)(writer)
        writer.raw(bytes(4))
        numbers(4, 1)(writer)
        writer.raw(bytes(4))

    with pytest.raises(ArtifactError, match="should have 1 nonzero entries, but has"):
        opened(packed_with([["Linear", 2, 3]], rest), tmp_path)


def test_every_cut_and_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    good = pack(shared(pruned(toy_mlp()), bits=3))
    for end in range(0, len(good), 7):
        with pytest.raises(ArtifactError, match="damaged or not a packed model"):
            opened(good[:end], tmp_path)
    for place in range(0, len(good), 11):
        changed = bytearray(good)
        changed[place] ^= 0x10
        with pytest.raises(ArtifactError, match="damaged or not a packed model"):
            opened(bytes(changed), tmp_path)


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_changed_bytes_under_a_right_checksum_end_in_an_error_or_in_a_model(name: str, tmp_path: Path) -> None:
    generator = random.Random(0)
    good = pack(shared(pruned(TOY_MODELS[name]()), bits=3))
    for _ in range(150):
        changed = bytearray(good)
        for _ in range(generator.choice([1, 1, 3])):
            changed[generator.randrange(START, len(good))] = generator.randrange(256)
        try:
            assert isinstance(opened(with_checksum(bytes(changed)), tmp_path), nn.Module)
        except ArtifactError:
            continue


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(inputs)


def test_a_class_of_ones_own_has_to_be_allowed(tmp_path: Path) -> None:
    content = pack(Own())
    with pytest.raises(ArtifactError, match=rf'pass allow=\["{__name__}:Own"\]'):
        opened(content, tmp_path)
    assert isinstance(opened(content, tmp_path, allow=[Own]), Own)


def test_what_cannot_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_file, "FREE_BYTES", 1000)
    with pytest.raises(ArtifactError, match="too many to be unpacked from a file of"):
        pack(nn.Sequential(nn.Embedding.from_pretrained(torch.zeros(1000, 1000))))
    with pytest.raises(ArtifactError, match=r"cannot be saved: KeyError: torch\.complex128"):
        pack(nn.ParameterList([torch.zeros(2, dtype=torch.complex128)]))
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ArtifactError, match="has hooks"):
        pack(hooked)


def test_without_the_coder_an_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    with pytest.raises(ToolkitError, match=r"pip install 'torch-optimization-toolkit\[packed\]'"):
        pack(toy_mlp())


def test_a_reader_takes_no_more_than_there_is() -> None:
    with pytest.raises(DamagedError, match="5 bytes should follow, but 3 do"):
        Reader(b"abc").raw(5)


# In a run, and from the command line

RECIPE = """
[output]
packed = true
half = ["*bias", "1.*"]

[[stages]]
technique = "pruning"

[[stages]]
technique = "codebook"
params = { bits = 2, values = "float32" }
"""


def test_a_run_leaves_packed_models_of_the_sizes_that_it_reports(recipe_run: Any) -> None:
    outcome = recipe_run(RECIPE)
    folders = [outcome.directory / "stages" / name for name in ("1-pruning", "2-codebook")]
    for number, folder in enumerate(folders, start=1):
        assert [path.name for path in folder.iterdir()] == ["model.packed"]
        assert outcome.rows[number]["size_bytes"] == (folder / "model.packed").stat().st_size
    assert (outcome.directory / "stages/0-baseline/model.safetensors").is_file()
    assert not (outcome.directory / "model.safetensors").exists()
    assert outcome.rows[2]["size_bytes"] < 0.1 * outcome.rows[0]["size_bytes"]
    model = toolkit.load(outcome.directory)
    assert all(len(weight.value.unique()) <= 5 for weight in masks.named_weights(model) if weight.value.dim() > 1)
    biases = [weight.value for weight in masks.named_weights(model) if weight.attribute == "bias"]
    assert all(torch.equal(bias.half().float(), bias) for bias in biases)


def test_a_packed_model_is_the_one_that_was_measured(recipe_run: Any) -> None:
    outcome = recipe_run(RECIPE)
    found = evaluate(outcome.directory, "toolkit.testing:toy_data", budget_s=0.2).rows[0]
    for name in ("loss", "accuracy", "size_bytes"):
        assert found[name] == outcome.rows[2][name]


def test_half_without_packed_is_a_mistake(recipe_run: Any) -> None:
    outcome = recipe_run(RECIPE.replace("packed = true", "packed = false"))
    assert "set packed = true" in outcome.error


def test_pack_and_evaluate_from_the_command_line(recipe_run: Any, tmp_path: Path) -> None:
    outcome = recipe_run(RECIPE.partition("[[stages]]")[2].join(["[[stages]]", ""]))
    path = tmp_path / "small.packed"
    arguments = ["pack", str(outcome.directory), "--output", str(path), "--half", "*"]
    packed = CliRunner().invoke(main, arguments)
    assert packed.exit_code == 0, packed.output
    assert f"{path}: {path.stat().st_size} bytes" in packed.output
    found = CliRunner().invoke(main, ["evaluate", str(path), "--data", "toolkit.testing:toy_data"])
    assert found.exit_code == 0, found.output
    assert "small.packed" in found.output
    beside = CliRunner().invoke(main, ["pack", str(outcome.directory)])
    assert beside.exit_code == 0
    assert_same(toolkit.load(outcome.directory), toolkit.load(outcome.directory / "model.packed"))
    wrong = CliRunner().invoke(main, ["pack", str(outcome.directory), "--half", "nothing"])
    assert (wrong.exit_code, wrong.output.count("\n")) == (2, 1)
