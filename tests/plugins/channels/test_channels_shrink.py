"""Shrinking: the loss that is added, what becomes of the channels that go, the cut at the end, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toolkit_channels
import torch
from channel_networks import resnet_on_pictures
from toolkit_channels import Findings, Params
from toolkit_channels.shrinking import drop, group_norms
from torch import Tensor, nn

import toolkit
from toolkit import masks, scoring
from toolkit.hooks.loading import from_module
from toolkit.recipe.read import PluginUse, parse_recipe
from toolkit.testing import TOY_MODELS, Outcome, run_text, toy_cnn, toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(256)
CNN = '[model]\nsource = "toolkit.testing:toy_cnn"\nargs = { channels = 16 }\ntraining = { epochs = 1, lr = 1e-2 }\n'
SHRINK = '[[stages]]\ntechnique = "channels"\nparams = { amount = 0.5, shrink = 0.05, criterion = "taylor" }\n'
TRAINED = "finetune = { epochs = 2, lr = 1e-2 }\n"


class Stage:
    """All hooks of a stage but `measure`, one after the other."""

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        self.params, self.findings = Params(**settings), toolkit_channels.Findings()
        self.arguments: dict[str, Any] = {"params": self.params, "data": DATA, "prepared": self.findings}
        self.model: Any = toolkit_channels.optimize(model=model.eval(), **self.arguments)

    def train(self, loss: Any = DATA.task.loss, after_step: Any = None, **settings: Any) -> Findings:
        training = Training(TrainingSettings(**{"epochs": 4, "lr": 1e-2, **settings}), loss)
        training = toolkit_channels.finetune(model=self.model, training=training, **self.arguments)
        self.told: list[float] = []
        fit(self.model, training.using(after_step=after_step), DATA, lambda *step: self.told.append(step[2]))
        return self.findings

    def finish(self) -> Any:
        return toolkit_channels.finish(model=self.model, **self.arguments)


def trained(make: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = make()
    fit(model, Training(TrainingSettings(epochs=2, lr=1e-2), DATA.task.loss), DATA)
    return model


def test_norms_by_hand() -> None:
    weight = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]])
    assert group_norms(weight, 0, torch.tensor([1.0, 0.0, 1.0])).item() == 6
    assert group_norms(weight, 1, torch.tensor([0.0, 1.0])).item() == 9
    assert group_norms(torch.tensor([-2.0, 5.0]), 0, torch.tensor([1.0, 0.0])).item() == 2


@pytest.mark.smoke
def test_the_loss_is_the_loss_before_and_the_growing_norms_of_the_rows_that_go() -> None:
    """A linear layer loses the rows with the smallest weights in both layers; the full strength is in the middle."""
    stage = Stage(trained(toy_mlp), amount=0.5, shrink=0.3, round_to=1)
    layer, plain, snapshots = stage.model[1], list[float](), list[tuple[Tensor, Tensor]]()

    def remember(_step: int = 0, _steps: int = 0) -> None:
        snapshots.append((layer.weight.detach().clone(), layer.bias.detach().clone()))

    def loss(outputs: Any, batch: toolkit.Batch) -> Tensor:
        value = DATA.task.loss(outputs, batch)
        plain.append(value.item())
        return value

    remember()
    goes = (snapshots[0][0].square().sum(1) + stage.model[3].weight.detach().square().sum(0)).argsort()[:17]
    stage.train(loss, remember)
    steps, expected = len(plain), []
    for step, (weight, bias) in enumerate(snapshots[:-1]):
        norms = weight[goes].norm(dim=1).sum() + bias[goes].abs().sum()
        expected.append(plain[step] + 0.3 * min(1.0, step / (0.5 * steps)) * norms.item())
    assert stage.told == pytest.approx(expected, rel=1e-5)
    assert expected[0] == plain[0]


@pytest.mark.parametrize("make", [toy_mlp, lambda: toy_cnn(16)], ids=["mlp", "cnn"])
def test_what_goes_is_much_smaller_than_without(make: Any) -> None:
    left = {}
    for shrink in (1e-9, 0.1):
        stage = Stage(trained(make), amount=0.5, shrink=shrink, round_to=1)
        stage.train(epochs=12)
        stage.finish()
        left[shrink] = stage.findings.values["norm_left"]
    assert left[1e-9] > 0.7
    assert left[0.1] < 0.5


@pytest.mark.parametrize("toy", TOY_MODELS)
def test_what_is_left_computes_what_the_trained_network_computes_with_masks(toy: str) -> None:
    model = trained(TOY_MODELS[toy])
    before = sum(parameter.numel() for parameter in model.parameters())
    stage = Stage(model, amount=0.2, shrink=0.01, round_to=1, floor=0.0, reestimate=False)
    findings = stage.train(epochs=1)
    shrinking = findings.shrinking
    assert shrinking is not None
    masked = masks.clone(stage.model)
    masks.apply(masked, shrinking.structure.masks(shrinking.units))
    cut, batch = stage.finish(), DATA.example(16)
    outputs, expected = (DATA.task.logits(DATA.task.forward(each.eval(), batch)) for each in (cut, masked))
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    assert sum(parameter.numel() for parameter in cut.parameters()) <= 0.8 * before
    assert findings.gone >= 0.2
    assert findings.shrinking is None


def test_the_drop_is_that_of_the_cut() -> None:
    stage = Stage(trained(lambda: toy_cnn(16)), amount=0.9, shrink=1e-9, criterion="random", round_to=1, floor=0.0)
    stage.train()
    before = scoring.score(stage.model, DATA)
    after = scoring.score(stage.finish(), DATA)
    assert stage.findings.values["drop"] == pytest.approx(100 * (before.value - after.value))
    assert stage.findings.values["drop"] > 0


@pytest.mark.parametrize(("fraction", "expected"), [(True, 50.0), (False, 200.0)])
def test_a_drop_is_in_points_or_in_percent(fraction: bool, expected: float) -> None:
    before, after = (scoring.Score("psnr", "higher", value, torch.tensor([value]), fraction) for value in (0.25, -0.25))
    assert drop(before, after) == pytest.approx(expected)


def done(outcome: Outcome) -> Outcome:
    assert not outcome.error, outcome.error
    return outcome


@pytest.mark.smoke
def test_it_works_in_a_chain_and_says_what_the_cut_cost(tmp_path: Path) -> None:
    """Zeros of an earlier stage are promised, the uncut network teaches, and int8 comes afterwards."""
    prune = '[[stages]]\ntechnique = "pruning"\nparams = { sparsity = 0.6, scope = "layer" }\n'
    teacher = 'with = [{ technique = "distillation", params = { hints = [{ teacher = "3", student = "3" }] } }]\n'
    outcome = done(
        run_text(CNN + prune + SHRINK + teacher + TRAINED + '[[stages]]\ntechnique = "quantization"\n', tmp_path)
    )
    assert not any({"ended", "promises"} & row.values.keys() for row in outcome.rows)
    assert outcome.rows[2]["parameters"] <= 0.5 * outcome.rows[0]["parameters"]
    assert outcome.rows[3]["sparsity"] >= outcome.rows[2]["sparsity"] > 0.4
    assert outcome.rows[2]["channels.removed"] >= 0.5
    assert outcome.rows[2]["channels.norm_left"] < 1
    assert abs(outcome.rows[2]["channels.drop"]) <= 100
    [hint] = [dict(row) for row in outcome.rows[2]["distillation.hints"].table]
    assert hint["before"] > 0
    assert "after" not in hint  # the projection reads channels that are gone


def observing(on_step: Callable[..., None]) -> PluginUse:
    module = SimpleNamespace(on_step=toolkit.hookimpl(on_step))
    return PluginUse(from_module(module, "test", "tests", "observer"), toolkit.Params())


def test_a_run_that_is_interrupted_in_the_middle_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def stop(stage: Any, step: int) -> None:
        if (stage.number, step) == (1, 5):  # of 8, when the pull has its full strength
            raise KeyboardInterrupt

    tables = '[data]\nsource = "toolkit.testing:toy_data"\n[measure]\nbudget = 0.05\n'
    recipe = parse_recipe(CNN + tables + SHRINK + TRAINED, "toy.toml", tmp_path)
    toolkit.run(recipe, output=tmp_path / "whole", cache=False)
    with pytest.raises(KeyboardInterrupt):
        toolkit.run(recipe, output=tmp_path / "stopped", cache=False, observers=[observing(stop)])
    toolkit.run(recipe, output=tmp_path / "stopped", cache=False)
    assert "resuming after step" in (tmp_path / "stopped" / "log.txt").read_text()
    whole, stopped = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


def test_blocks_go_at_once_and_channels_at_the_end(tmp_path: Path) -> None:
    stage = SHRINK.replace("shrink = 0.05", "shrink = 0.05, blocks = 0.2, round_to = 1")
    outcome = done(run_text(resnet_on_pictures(blocks=2) + stage + TRAINED, tmp_path))
    assert outcome.rows[1]["channels.removed"] >= 0.5
    assert outcome.rows[1]["channels.blocks"].table


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("shrink = 0.05", "shrink = -0.1", "greater than or equal to 0"),
        ("shrink = 0.05", "shrink = 1e3", "less than or equal to 100"),
        ("shrink = 0.05", "shrink = true", "valid number"),
        ("shrink = 0.05", "shrink = 0.05, steps = 3", "steps have several; leave out shrink or steps"),
        (TRAINED, "", "is missing: channels with these params needs training"),
        ("amount = 0.5", "amount = 0.99", "amount = 0.99 of the parameters cannot go, at most"),
        ("shrink = 0.05", "shrink = 0.05, layers = ['6']", "no layer is left whose channels can go"),
    ],
)
def test_what_cannot_work_is_refused(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    outcome = run_text(CNN + (SHRINK + TRAINED).replace(old, new), tmp_path)
    assert sentence in outcome.error
    assert "Traceback" not in outcome.stderr
