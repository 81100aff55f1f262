"""Networks that nobody here made, and what they are fed and return: every technique and every metric on each."""

import argparse
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import toolkit
from toolkit import model_files as artifact
from toolkit.data.coerce import as_data
from toolkit.errors import InputError
from toolkit.metrics import MemoryMeter
from toolkit.model_files.weights import load_weights
from toolkit.recipe.read import parse_recipe
from toolkit.runner.assembly import assemble
from toolkit.sources import Source, resolve
from toolkit.tasks import Classification, to_float32
from toolkit.testing import toy_cnn, toy_mlp

NETS = """
from collections import namedtuple
from dataclasses import dataclass
import torch
from torch import Tensor, nn

@dataclass
class Answer:
    scores: Tensor
    hidden: Tensor

@dataclass(frozen=True)
class Logits:
    hidden: Tensor
    logits: Tensor

Pair = namedtuple("Pair", ["scores", "hidden"])
FORMS = {
    "tensor": lambda scores, hidden: scores,
    "tuple": lambda scores, hidden: (scores, hidden),
    "dictionary": lambda scores, hidden: {"hidden": hidden, "logits": scores},
    "dataclass": Answer,
    "dataclass with logits": lambda scores, hidden: Logits(hidden, scores),
    "named tuple": Pair,
    "nested": lambda scores, hidden: {"out": (scores, hidden)},
}

class Net(nn.Module):
    def __init__(self, returns="tensor", hidden=24):
        super().__init__()
        self.returns = returns
        self.enter = nn.Linear(8, hidden)
        self.also = nn.Linear(4, hidden)
        self.leave = nn.Linear(hidden, 3)

    def forward(self, values, more=None):
        hidden = self.enter(values) + (0 if more is None else self.also(more))
        return FORMS[self.returns](self.leave(hidden.relu()), hidden)

def split(samples, form):
    generator = torch.Generator().manual_seed(samples)
    values, more = torch.randn(samples, 8, generator=generator), torch.randn(samples, 4, generator=generator)
    targets = values[:, :3].argmax(1)
    return {"tensor": values, "tuple": (values, more), "dictionary": {"more": more, "values": values}}[form], targets

def load(form="tensor"):
    return split(384, form), split(192, form)
"""
STAGES = """
[measure]
budget = {budget}
batch_sizes = [1, 32]
[[stages]]
technique = "distillation"
params = {{ student = {{ source = "{source}", args = {{ {student} }} }} }}
finetune = {{ epochs = {epochs}, lr = 3e-2 }}
[[stages]]
technique = "pruning"
params = {{ sparsity = 0.5 }}
with = [{{ technique = "distillation", params = {{ teacher = "reference" }} }}]
finetune = {{ epochs = 1, lr = 1e-2, precision = "bfloat16" }}
{last}
"""
QUANTIZATION = '[[stages]]\ntechnique = "quantization"'
CHAIN = f"""
[model]
source = "{{source}}"
args = {{{{ {{args}} }}}}
training = {{{{ epochs = {{epochs}}, lr = 3e-2 }}}}
[data]
source = "{{data}}"
args = {{{{ {{data_args}} }}}}
batch_size = 64
{STAGES}
"""


def chained(folder, source, data, args="", student="", data_args="", epochs=4, budget=0.2, last=QUANTIZATION):
    text = CHAIN.format(**{name: value for name, value in locals().items() if name != "folder"})
    return toolkit.run(parse_recipe(text, "own.toml", folder), output=folder / "run")


def assert_measured(report):
    for row in report.rows:
        assert {"accuracy", "loss", "parameters", "sparsity", "macs", "latency_ms", "size_bytes"} <= row.values.keys()
        assert row["macs"] > 0
    assert 0 <= report.rows[1]["distillation.agreement"] <= 1
    assert 0 <= report.rows[-1]["agreement"] <= 1
    assert report.rows[2]["sparsity"] > 0.3
    assert report.rows[3]["quantization.layers"] > 0


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        ("tensor", "dataclass"),
        *(
            pytest.param(*forms, marks=pytest.mark.slow)
            for forms in (
                ("tuple", "tuple"),
                ("dictionary", "dictionary"),
                ("tensor", "dataclass with logits"),
                ("tuple", "named tuple"),
            )
        ),
        ("dictionary", "nested"),
    ],
)
def test_every_technique_on_every_form(tmp_path, given, returned):
    (tmp_path / "nets.py").write_text(NETS)
    args = f'returns = "{returned}"'
    report = chained(
        tmp_path, "nets.py:Net", "nets.py:load", args, f"{args}, hidden = 12", f'form = "{given}"', epochs=8
    )
    assert_measured(report)
    assert report.rows[-1]["accuracy"] > 0.7
    assert report.rows[0]["macs"] == 8 * 24 + 24 * 3 + (4 * 24 if given != "tensor" else 0)


@pytest.mark.slow
@pytest.mark.memory
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")
def test_memory_of_a_network_with_dictionaries_in_and_dataclasses_out(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    model = Source(source=f"{tmp_path / 'nets.py'}:Net", args={"returns": "dataclass", "hidden": 1000}).build()
    data = as_data(resolve(f"{tmp_path / 'nets.py'}:load", "data")("dictionary"), "nets.py:load", 128)
    for name, content in artifact.pack(model).items():
        (tmp_path / name).write_bytes(content)
    with MemoryMeter() as meter:
        found = meter.peak_bytes(tmp_path, model, data.task, data.example(4))
    assert found is not None
    assert found > sum(parameter.nbytes for parameter in model.parameters())


@dataclass
class Plain:
    scores: torch.Tensor
    count: int


Named = namedtuple("Named", ["scores", "count"])


@pytest.mark.parametrize(
    "outputs",
    [
        Plain(torch.ones(2, 3, dtype=torch.bfloat16), 7),
        Named(torch.ones(2, 3, dtype=torch.bfloat16), 7),
        {"deep": [Plain(torch.ones(2, 3, dtype=torch.bfloat16), 7)]},
    ],
)
def test_a_loss_receives_float32_whatever_the_structure(outputs):
    converted = to_float32(outputs)
    assert type(converted) is type(outputs)
    assert Classification().logits(converted).dtype == torch.float32
    assert Classification().logits(outputs).dtype == torch.bfloat16, "and the outputs are left alone"


def test_outputs_without_logits_are_named():
    with pytest.raises(TypeError, match="outputs of type int have no logits; define a task with"):
        Classification().logits(3)


# Weights.


def net_and_state():
    torch.manual_seed(1)
    return toy_mlp().state_dict()


WRAPPED = {
    "plain": lambda state: state,
    "checkpoint": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}, "lr": 0.1}},
    "checkpoint of DataParallel": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    "under any key": lambda state: {"network": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "below a key": lambda state: {"best": {"epoch": 3, "model": state}},
    "beside other tensors": lambda state: {"rng": {"cpu": torch.ones(2)}, "net": state},
    "average": lambda state: {"n_averaged": torch.tensor(3), **{f"module.{name}": state[name] for name in state}},
    "compiled": lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_weights_come_out_of_what_trainings_wrap_around_them(tmp_path, wrapped):
    state, model = net_and_state(), toy_mlp()
    torch.save(WRAPPED[wrapped](state), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_batch_norms_of_old_files_have_no_counter(tmp_path, save):
    state = {name: value for name, value in toy_cnn().state_dict().items() if "num_batches" not in name}
    path = tmp_path / ("w.pt" if save is torch.save else "w.safetensors")
    save(state, path)
    model = toy_cnn()
    load_weights(model, path)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    del state["1.running_mean"]
    save(state, path)
    with pytest.raises(InputError, match=r"'1\.running_mean' is missing$"):
        load_weights(toy_cnn(), path)


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    state = net_and_state()
    mixed = {name if name == "1.bias" else f"module.{name}": value for name, value in state.items()}
    torch.save(mixed, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"'1\.weight' is missing; .*'module\.1\.weight' is not in the model"):
        load_weights(toy_mlp(), tmp_path / "w.pt")


def test_a_model_with_a_layer_that_is_called_module(tmp_path):
    model, state = nn.ModuleDict({"module": toy_mlp()}), net_and_state()
    for prefix in ("module.", "module.module.", "_orig_mod.module."):
        torch.save({f"{prefix}{name}": value for name, value in state.items()}, tmp_path / "w.pt")
        load_weights(model, tmp_path / "w.pt")
        assert all(torch.equal(value, state[name]) for name, value in model["module"].state_dict().items())


def several():
    state = net_and_state()
    average = {f"module.{name}": value + 1 for name, value in state.items()}
    return {"model": state, "ema": {"decay": 0.9, "shadow": average}, "optimizer": {"state": {}}}


@pytest.mark.parametrize("key", ["model", "ema.shadow"])
def test_one_of_several_state_dicts_is_chosen_by_its_key(tmp_path, key):
    torch.save(several(), tmp_path / "w.pt")
    model = toy_mlp()
    load_weights(model, tmp_path / "w.pt", key)
    shift = 0 if key == "model" else 1
    assert all(torch.equal(value, net_and_state()[name] + shift) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "key", "said"),
    [
        (several, None, "contains several state dicts; set `weights_key` to one of 'model', 'ema.shadow'"),
        (several, "emma", "has no state dict 'emma'; known: ema.shadow, model"),
        (several, "ema", "has no state dict 'ema'; "),
        (net_and_state, "ema", "is a single state dict; remove `weights_key`"),
    ],
)
def test_a_choice_that_is_missing_or_wrong(tmp_path, content, key, said):
    torch.save(content(), tmp_path / "w.pt")
    with pytest.raises(InputError) as refused:
        load_weights(toy_mlp(), tmp_path / "w.pt", key)
    assert str(refused.value).startswith(f"{tmp_path / 'w.pt'} {said}")


def test_safetensors_of_data_parallel(tmp_path):
    state, model = net_and_state(), toy_mlp()
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            lambda state: {"state_dict": {**state, "ema": torch.ones(1)}},
            "does not match Sequential: 'ema' is not in the model",
        ),
        (lambda state: {"net.0": torch.ones(1), "loss.w": torch.ones(1)}, "'net.0' is not in the model"),
        (lambda state: {"epoch": 3}, "is not a state dict"),
        (lambda state: {"model": state, "args": argparse.Namespace(lr=1)}, "contains more than tensors"),
    ],
)
@pytest.mark.smoke
def test_what_does_not_match_is_listed(tmp_path, content, said):
    torch.save(content(net_and_state()), tmp_path / "w.pt")
    with pytest.raises(InputError) as refused:
        load_weights(toy_mlp(), tmp_path / "w.pt")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


# Networks of others, through their own factories.

PICTURES = """
import torch

def load(samples=32, size=32, classes=3):
    generator = torch.Generator().manual_seed(0)
    def split(count):
        targets = torch.randint(classes, (count,), generator=generator)
        return torch.randn(count, 3, size, size, generator=generator) + targets.view(-1, 1, 1, 1), targets
    return split(samples), split(samples // 2)
"""
SENTENCES = """
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

# What TOML cannot write, a configuration here, is made by a function of one's own.
def config(width):
    return BertConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * width,
        max_position_embeddings=16, num_labels=3,
    )

def classifier(width=32):
    return BertForSequenceClassification(config(width))

def tagger(width=32):
    return BertForTokenClassification(config(width))

class Sentences(torch.utils.data.Dataset):
    def __init__(self, count):
        generator = torch.Generator().manual_seed(count)
        self.ids = torch.randint(1, 50, (count, 10), generator=generator)
    def __len__(self):
        return len(self.ids)
    def __getitem__(self, position):
        ids = self.ids[position]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": int(ids[0]) % 3}

def sentences():
    return Sentences(96), Sentences(48)

def tags():
    def split(count):
        ids = Sentences(count).ids
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, (ids % 3).masked_fill(ids > 45, -100)
    return split(96), split(48)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures.py").write_text(PICTURES)
    (tmp_path / "words.py").write_text(SENTENCES)
    return tmp_path


@pytest.mark.slow
def test_a_network_of_torchvision(folder):
    args = (
        "image_size = 32, patch_size = 8, num_layers = 2, num_heads = 2, hidden_dim = 48, mlp_dim = 96, num_classes = 3"
    )
    source = "torchvision.models:VisionTransformer"
    assert_measured(chained(folder, source, "pictures.py:load", args, args, epochs=1))


def test_resnet18_fits_pictures(folder):
    text = """
    [model]
    source = "torchvision.models:resnet18"
    args = { num_classes = 3 }
    training = { epochs = 1 }
    [data]
    source = "pictures.py:load"
    [[stages]]
    technique = "pruning"
    """
    model = assemble(parse_recipe(text, "own.toml", folder)).model
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_178_051


def test_a_network_of_timm(folder):
    pytest.importorskip("timm")
    args = (
        'model_name = "vit_tiny_patch16_224", img_size = 32, patch_size = 8, embed_dim = 48, depth = 2, num_heads = 2, '
        "num_classes = 3"
    )
    assert_measured(chained(folder, "timm:create_model", "pictures.py:load", args, args, epochs=1))


def test_a_network_of_transformers_on_dictionaries_of_a_dataset(folder):
    pytest.importorskip("transformers")
    report = chained(folder, "words.py:classifier", "words.py:sentences", student="width = 16", epochs=1)
    assert_measured(report)
    # What it consists of is no secret: all of it is named at once, and one entry allows it.
    with pytest.raises(toolkit.ToolkitError, match="which are not known to be safe") as refused:
        toolkit.load(report.directory)
    assert 'pass allow=["transformers"], or --allow transformers on the command line' in str(refused.value)
    assert type(toolkit.load(report.directory, allow=["transformers"])).__name__ == "BertForSequenceClassification"


def test_a_network_of_transformers_that_names_every_token(folder):
    pytest.importorskip("transformers")
    text = CHAIN.replace("batch_size = 64", 'batch_size = 64\ntask = "token-classification"')
    text = text.format(
        source="words.py:tagger", data="words.py:tags", args="", data_args="", student="", epochs=2, budget=0.2, last=""
    )
    report = toolkit.run(parse_recipe(text, "own.toml", folder), output=folder / "run")
    assert list(report.quality) == ["token_accuracy", "loss"]
    assert report.rows[2]["token_accuracy"] > 0.4
    assert 0 <= report.rows[1]["distillation.agreement"] <= 1


def test_the_files_of_a_network_are_named_where_they_fail(folder):
    (folder / "broken.py").write_text("import nowhere_to_be_found\n")
    text = '[model]\nsource = "broken.py:Net"\n[data]\nsource = "pictures.py:load"\n[[stages]]\ntechnique = "pruning"\n'
    with pytest.raises(toolkit.RecipeError) as refused:
        parse_recipe(text, "own.toml", Path(folder))
    assert "cannot import '" + str(
        folder / "broken.py"
    ) + "': ModuleNotFoundError: No module named 'nowhere_to_be_found'" in str(refused.value)


def test_a_module_is_no_network_until_it_is_made(folder):
    (folder / "made.py").write_text("from torch import nn\nnet = nn.Linear(2, 2)\ndef factory():\n    return 3\n")
    text = (
        '[model]\nsource = "made.py:factory"\n[data]\nsource = "pictures.py:load"\n[[stages]]\ntechnique = "pruning"\n'
    )
    with pytest.raises(toolkit.RecipeError, match=r"must return a torch\.nn\.Module, found int"):
        assemble(parse_recipe(text, "own.toml", Path(folder)))
    assert isinstance(nn.Linear(2, 2), nn.Module)
