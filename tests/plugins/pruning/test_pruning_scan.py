"""The sensitivity scan of pruning: what each layer costs alone, measured by hand as well, and nothing else changed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toolkit_pruning
import torch
from toolkit_pruning import Params
from torch import Tensor, nn
from torch.nn.utils import prune

import toolkit
from toolkit import masks
from toolkit.report.reader import read_report
from toolkit.testing import toy_cnn, toy_data, toy_lstm, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(256)
SPARSITIES = [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
DROP = "drop of accuracy (points)"


def trained(model: nn.Module) -> nn.Module:
    fit(model, Training(TrainingSettings(epochs=3, lr=1e-2), DATA.task.loss), DATA)
    return model.eval()


def scanned(model: nn.Module, data: toolkit.Data = DATA, **params: Any) -> toolkit.Note:
    """The note of a stage that scans a copy of `model`."""
    prepared = toolkit_pruning.prepare()
    settings = Params(scan=True, **params)
    after = toolkit_pruning.optimize(model=masks.clone(model), params=settings, data=data, prepared=prepared)
    note = toolkit_pruning.measure(model=after, prepared=prepared)["scan"]
    assert isinstance(note, toolkit.Note)
    return note


def accuracy(model: nn.Module, split: Any) -> float:
    inputs, targets = split
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).double().mean())


@pytest.mark.parametrize("make", [toy_mlp, toy_cnn])
def test_every_layer_is_pruned_alone_to_every_sparsity(make: Any) -> None:
    model = trained(make())
    note = scanned(model, sparsity=0.8)
    before = accuracy(model, DATA.validation)
    expected = []
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            for sparsity in SPARSITIES:
                twin = masks.clone(model)
                prune.l1_unstructured(twin.get_submodule(path), "weight", amount=sparsity)
                after = accuracy(twin, DATA.validation)
                expected.append({"layer": path, "sparsity": sparsity, "accuracy": after, DROP: 100 * (before - after)})
    assert note.table == [
        {**row, "accuracy": pytest.approx(row["accuracy"]), DROP: pytest.approx(row[DROP])} for row in expected
    ]
    assert max(row[DROP] for row in expected) > 10
    assert note.plot == toolkit.Plot("sparsity", DROP, "layer")
    assert note.text.startswith("each layer pruned alone, on 64 samples of validation; accuracy was ")


@pytest.mark.smoke
def test_it_is_not_made_unless_asked_for() -> None:
    prepared = toolkit_pruning.prepare()
    model = toolkit_pruning.optimize(model=toy_mlp(), params=Params(), data=DATA, prepared=prepared)
    assert "scan" not in toolkit_pruning.measure(model=model, prepared=prepared)


@pytest.mark.parametrize("params", [{}, {"criterion": "random"}, {"pattern": "2:4", "exclude": ["0"]}])
def test_the_result_is_the_same_with_and_without_it(params: dict[str, Any]) -> None:
    model = toy_cnn()
    nn.init.normal_(model.get_parameter("1.weight"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for scan in (False, True):
        torch.manual_seed(7)
        twin = masks.clone(model).train()
        twin = toolkit_pruning.optimize(model=twin, params=Params(scan=scan, **params), data=DATA, prepared=[])
        results.append((twin.state_dict(), torch.rand(3)))
        assert twin.training
    (one, drawn), (other, drawn_after) = results
    assert torch.equal(drawn, drawn_after)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_the_layers_that_are_pruned_are_scanned_and_each_weight_of_an_lstm_is() -> None:
    layers = {row["layer"] for row in scanned(toy_lstm(), exclude=["leave"]).table}
    assert layers == {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}


def test_sparsities_that_a_layer_has_passed_are_left_out() -> None:
    model = toy_mlp()
    masks.apply(model, {"3.weight": torch.arange(128).view(4, 32) % 20 < 3})  # 85 % and a little more
    rows = scanned(model).table
    assert [row["sparsity"] for row in rows if row["layer"] == "1"] == SPARSITIES
    assert [row["sparsity"] for row in rows if row["layer"] == "3"] == [0.9, 0.95, 0.99]


def test_at_most_two_thousand_samples_are_looked_at() -> None:
    many = (DATA.train[0][:1].expand(6001, 1, 8, 8), torch.zeros(6001, dtype=torch.long))
    note = scanned(toy_mlp(4), replace(DATA, validation=many), layers=["3"])
    assert note.text.startswith("each layer pruned alone, on 2000 samples of validation; ")


def test_without_a_validation_split_it_looks_at_train() -> None:
    assert "on 256 samples of train" in scanned(toy_mlp(), replace(DATA, validation=None, test=None)).text


class Plain(toolkit.Task):
    """Nothing but a loss."""

    def loss(self, outputs: Any, batch: toolkit.Batch) -> Tensor:
        return (outputs.mean(dim=1) - batch.targets).square().mean()


def test_a_task_with_nothing_but_a_loss_is_told_how_that_rises() -> None:
    inputs, targets = DATA.validation  # type: ignore[misc]
    data = toolkit.Data(train=(inputs, targets.float()), task=Plain(), batch_size=24)
    model = toy_mlp().eval()
    with torch.no_grad():
        before = float((model(inputs).mean(1) - targets).square().mean())
    note = scanned(model, data, layers=["3"])
    assert f"loss was {before:.4g} before" in note.text
    assert note.plot == toolkit.Plot("sparsity", "rise of loss (%)", "layer")
    twin = masks.clone(model)
    prune.l1_unstructured(twin[3], "weight", amount=0.99)  # type: ignore[index]
    with torch.no_grad():
        after = float((twin(inputs).mean(1) - targets).square().mean())
    assert note.table[-1]["rise of loss (%)"] == pytest.approx(100 * (after - before) / before, rel=1e-4)


def explained(outputs: Any, batch: toolkit.Batch) -> toolkit.Pooled:
    targets = batch.targets.double()
    parts = torch.stack([(outputs.mean(dim=1) - targets).square(), targets, targets.square()], dim=1)
    return toolkit.Pooled(parts, lambda means: 1 - means[0] / (means[2] - means[1].square()))


def test_a_pooled_metric_below_zero_drops_in_percent() -> None:
    inputs, targets = DATA.validation  # type: ignore[misc]
    data = toolkit.Data(train=(inputs, targets.float()), task=Plain(), metrics={"explained": explained}, batch_size=24)
    assert "drop of explained (%)" in scanned(toy_mlp(), data).table[0]


RECIPE = """
[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 2, lr = 1e-2 }
[[stages]]
technique = "pruning"
params = { sparsity = 0.5, scan = true }
finetune = { epochs = 1 }
"""


@pytest.mark.slow
@pytest.mark.page
def test_in_a_run_it_is_drawn_on_the_page_and_a_table_elsewhere(recipe_run: Any) -> None:
    outcome = recipe_run(RECIPE)
    assert outcome.error == ""
    note = outcome.rows[1]["pruning.scan"]
    assert read_report(outcome.directory).rows[1]["pruning.scan"] == note
    assert len(note.table) == 2 * len(SPARSITIES)
    assert "1 pruning: pruning.scan: each layer pruned alone" in str(outcome.report)
    assert f"sparsity |   accuracy |   {DROP} |" in (outcome.directory / "report.md").read_text()
    page = (outcome.directory / "report.html").read_text()
    assert "<desc" in page
    assert f"{DROP} over sparsity: 1 goes from" in page
    assert "note-1-pruning.scan" in outcome.report.plot()


@pytest.mark.cache
def test_it_comes_back_from_the_cache(tmp_path: Path) -> None:
    data = '[data]\nsource = "toolkit.testing:toy_data"\n[measure]\nbudget = 0.1\n'
    (tmp_path / "recipe.toml").write_text(data + RECIPE)
    first, second = (toolkit.run(tmp_path / "recipe.toml", output=tmp_path / name) for name in ("one", "two"))
    assert second.rows[1]["reused"]
    assert second.rows[1]["pruning.scan"] == first.rows[1]["pruning.scan"]
