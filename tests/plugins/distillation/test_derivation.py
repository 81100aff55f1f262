"""Students derived from the model: their shapes, the weights that they keep, and what a recipe does with them."""

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torchvision
from few_toys import FewToys
from toolkit_distillation import Derived
from toolkit_distillation.derivation import derive, draw_anew, evenly_spaced
from torch import Tensor, nn

import toolkit
from toolkit.models import MODELS
from toolkit.testing import Outcome, TechniqueContract, run_text, toy_cnn, toy_data, toy_lstm, toy_transformer


def pictures(channels: int, size: int) -> toolkit.Data:
    generator = torch.Generator().manual_seed(0)
    return toolkit.Data(train=(torch.randn(8, channels, size, size, generator=generator), torch.zeros(8).long()))


class Residual(nn.Module):
    """A block that can go as a whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def residual(blocks: int = 4, width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    body = [Residual(width) for _ in range(blocks)]
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), *body, nn.Flatten(), nn.Linear(width * 64, 4))


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(16, 4, 3, 4, 32, 64, num_classes=4)


def derived(model: nn.Module, data: toolkit.Data, **settings: Any) -> Any:
    torch.manual_seed(0)
    derive(model.eval(), Derived.model_validate({"from": "input", **settings}), data)
    return model


def parameters(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in model.parameters())


def test_each_layer_keeps_its_strongest_channels_with_their_weights() -> None:
    model: Any = toy_cnn(8)
    before = [model[0].weight.detach().clone(), model[3].weight.detach().clone()]
    derived(model, toy_data(16), width=0.5)
    first = before[0].flatten(1).norm(dim=1).argsort()[4:].sort().values
    assert torch.equal(model[0].weight, before[0][first])
    assert model[3].weight.shape == (before[1].shape[0] // 2, 4, *before[1].shape[2:])


@pytest.mark.parametrize(
    ("make", "data", "settings"),
    [
        (lambda: MODELS["lenet5"](width=0.2), pictures(1, 28), {"width": 0.5}),
        (lambda: torchvision.models.resnet18(), pictures(3, 32), {"width": 0.25, "depth": 0.5}),
        (vit, pictures(3, 16), {"width": 0.5, "depth": 0.5}),
        (toy_transformer, toy_data(16), {"width": 0.5}),
        (toy_lstm, toy_data(16), {"width": 0.5}),
    ],
    ids=["LeNet-5", "ResNet-18", "ViT", "transformer", "LSTM"],
)
def test_students_are_smaller_and_answer_alike_in_shape(make: Any, data: toolkit.Data, settings: Any) -> None:
    model = make()
    before, shape = parameters(model), data.task.logits(data.task.forward(model.eval(), data.example(2))).shape
    derived(model, data, **settings)
    if not isinstance(model, torchvision.models.VisionTransformer):  # it draws parameters in its constructor
        draw_anew(model)
    assert data.task.logits(data.task.forward(model, data.example(2))).shape == shape
    assert parameters(model) < 0.8 * before


def test_the_first_and_the_last_block_stay_and_others_evenly_spaced() -> None:
    assert [evenly_spaced(12, count) for count in (1, 2, 6)] == [[0], [0, 11], [0, 2, 4, 7, 9, 11]]
    model = derived(residual(4), pictures(1, 8), depth=0.5)
    assert [isinstance(block, Residual) for block in model[1:5]] == [True, False, False, True]


def test_weights_drawn_anew_are_those_of_layers_that_were_never_trained() -> None:
    model = derived(toy_cnn(8), toy_data(16), width=0.5)
    torch.manual_seed(3)
    draw_anew(model)
    torch.manual_seed(3)
    other: Any = nn.Conv2d(model[0].in_channels, 4, model[0].kernel_size)
    assert torch.equal(model[0].weight, other.weight)
    assert torch.equal(model[0].bias, other.bias)


def test_a_network_that_cannot_be_drawn_anew_is_refused_by_name() -> None:
    expected = r"the network of kind VisionTransformer cannot draw its weights anew .*; set initialize = true"
    with pytest.raises(toolkit.TechniqueError, match=expected):
        draw_anew(vit())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0.9}, r"depth = 0\.9 keeps all 4 residual blocks; lower it"),
        ({"depth": 0.5, "exclude": ["1", "2", "3", "4"]}, "the model has none; set width alone"),
        ({"width": 0.99}, r"width = 0\.99 removes no channel of the student; lower it"),
        ({"width": 0.5, "exclude": ["*"]}, r"width needs a layer whose channels can go \(.* and 7 more: excluded"),
    ],
)
def test_shares_that_take_nothing_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(toolkit.TechniqueError, match=message):
        derived(residual(), pictures(1, 8), **settings)


RECIPE = """
[model]
source = "toolkit.testing:toy_cnn"
args = {{ channels = 16 }}
training = {{ epochs = 2, lr = 1e-2 }}
[[stages]]
technique = "pruning"
params = {{ sparsity = 0.5 }}
[[stages]]
technique = "distillation"
params = {{ student = {{ from = "input", width = 0.5 }}, {params} }}
finetune = {{ epochs = {epochs}, lr = 1e-2 }}
"""


def run(folder: Path, params: str, epochs: int = 1, more: str = "") -> Outcome:
    return run_text(RECIPE.format(params=params, epochs=epochs) + more, folder)


def done(outcome: Outcome) -> Outcome:
    assert not outcome.error, outcome.error
    return outcome


@pytest.mark.smoke
def test_a_student_that_keeps_its_weights_keeps_the_promises_of_earlier_stages(tmp_path: Path) -> None:
    hint = 'initialize = true, hints = [{ teacher = "3", student = "3" }]'
    row = done(run(tmp_path, hint)).rows[2]
    assert not {"ended", "promises"} & row.values.keys()
    assert row["sparsity"] > 0.3
    assert [dict(each) for each in row["distillation.derived"].table] == [
        {"module": "0", "before": "16", "now": "8"},
        {"module": "3", "before": "16", "now": "8"},
    ]
    assert "distillation.hints" in row.values


def test_a_student_that_is_drawn_anew_has_no_zeros_and_ends_the_promises(tmp_path: Path) -> None:
    row = done(run(tmp_path, "alpha = 0.0")).rows[2]
    assert row["sparsity"] == 0
    assert "ended" in row.values


def test_a_derived_student_is_saved_opened_and_quantized(tmp_path: Path) -> None:
    outcome = done(run(tmp_path, "initialize = true", more='[[stages]]\ntechnique = "quantization"\n'))
    opened: Any = toolkit.load(outcome.directory)
    assert opened[0].out_channels == 8


def test_integers_cannot_be_drawn_anew(tmp_path: Path) -> None:
    int8 = f"""[model]
source = "{__file__}:residual"
training = {{ epochs = 1 }}
[[stages]]
technique = "quantization"
params = {{ layers = ["6"] }}
"""
    student = '[[stages]]\ntechnique = "distillation"\nparams = { student = { from = "input", depth = 0.5 } }\n'
    outcome = run_text(int8 + student + "finetune = { epochs = 1 }\n", tmp_path)
    assert re.search("'6' of kind .* cannot draw its weights anew by reset_parameters; set init", outcome.error)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ('{ from = "input" }', ".student: a derived student needs a width or a depth below 1"),
        ('{ from = "input", width = 0 }', ".student.width: must be greater than 0, found 0"),
        ('{ from = "reference", width = 0.5 }', ".student.from: must be 'input', found \"reference\""),
        ('{ from = "input", widht = 0.5 }', ".student.widht: is not a known key; did you mean 'width'?"),
        ("{ width = 0.5 }", ".student.from: is missing"),
        (
            '{ from = "input", width = 0.5 }, initialize = true, layers = { "0" = "3" }',
            ": layers only matters for a student with a source, found a derived one; leave layers out",
        ),
    ],
)
def test_a_mistake_is_one_sentence_about_the_kind_of_student_that_was_meant(
    student: str, message: str, tmp_path: Path
) -> None:
    text = f'[[stages]]\ntechnique = "distillation"\nparams = {{ student = {student} }}\nfinetune = {{ epochs = 1 }}\n'
    outcome = run_text('[model]\nsource = "toolkit.testing:toy_cnn"\ntraining = { epochs = 1 }\n' + text, tmp_path)
    assert outcome.error.splitlines() == [f"recipe.toml: stages.1.params{message}"]


class TestKept(FewToys, TechniqueContract):
    technique = "distillation"
    params: ClassVar[dict[str, Any]] = {"student": {"from": "input", "width": 0.5}, "initialize": True}


@pytest.mark.slow
class TestDrawnAnew(FewToys, TechniqueContract):
    technique = "distillation"
    params: ClassVar[dict[str, Any]] = {"student": {"from": "input", "width": 0.5}}
