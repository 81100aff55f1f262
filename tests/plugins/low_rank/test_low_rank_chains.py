"""Low rank in recipes: how much goes, which layers stay, and what other stages and exports do with factors."""

from pathlib import Path
from typing import Any

import pytest
import toolkit_low_rank
import torch
from pydantic import ValidationError
from toolkit_low_rank import Params
from torch import Tensor, nn

from toolkit import TechniqueError, masks, model_files
from toolkit.testing import Outcome, run_text, toy_cnn, toy_data, toy_mlp, toy_tied, toy_transformer

CNN = '[model]\nsource = "toolkit.testing:toy_cnn"\nargs = { channels = 16 }\ntraining = { epochs = 1, lr = 1e-2 }\n'
FACTOR = '[[stages]]\ntechnique = "low-rank"\nparams = { rank = 0.4 }\n'
PRUNE = '[[stages]]\ntechnique = "pruning"\nparams = { sparsity = 0.6, layers = ["3"] }\n'
TRAINED = "finetune = { epochs = 1 }\n"
INT8 = '[[stages]]\ntechnique = "quantization"\n'
DATA = toy_data(128)


def done(outcome: Outcome) -> Outcome:
    assert not outcome.error, outcome.error
    return outcome


def optimized(model: nn.Module, **params: Any) -> tuple[Any, toolkit_low_rank.Findings]:
    findings = toolkit_low_rank.prepare()
    model = toolkit_low_rank.optimize(model=model, params=Params(**params), data=DATA, prepared=findings)
    return model, findings


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    return model.eval()(DATA.train[0][:16])


@pytest.mark.smoke
def test_a_row_has_fewer_macs_and_parameters_and_says_where(tmp_path: Path) -> None:
    outcome = done(run_text(CNN + FACTOR.replace("0.4", "0.7") + TRAINED, tmp_path))
    before, after = outcome.rows
    assert after["macs"] < before["macs"]
    assert after["low-rank.removed"] == pytest.approx(1 - after["parameters"] / before["parameters"])
    note = after["low-rank.layers"]
    assert [row["layer"] for row in note.table] == ["3", "6"]
    assert before["macs"] - after["macs"] == sum(row["MACs before"] - row["MACs"] for row in note.table)
    assert after["low-rank.energy"] == min(row["energy"] for row in note.table) < 1
    assert after["low-rank.kept"].table == [{"layer": "0", "reason": "its factors would not have fewer MACs"}]


def test_energy_is_kept_and_a_higher_one_keeps_more() -> None:
    torch.manual_seed(0)
    saved = []
    for energy in (0.5, 0.7):
        _, findings = optimized(toy_cnn(32), energy=energy)
        assert all(row["energy"] >= energy for row in findings.rows)
        saved.append(findings.removed)
    assert saved[0] > saved[1] > 0


@pytest.mark.parametrize("data_aware", [False, True])
def test_so_many_parameters_go_as_amount_asks_for(data_aware: bool) -> None:
    torch.manual_seed(0)
    model = toy_cnn(32)
    before = parameters(model)
    for amount in (0.3, 0.6):
        new, findings = optimized(masks.clone(model), amount=amount, data_aware=data_aware)
        gone = 1 - parameters(new) / before
        assert amount <= gone < amount + 0.05
        assert findings.removed == pytest.approx(gone)


def test_more_than_factors_can_save_is_refused() -> None:
    with pytest.raises(TechniqueError, match=r"factors save at most \d+\.\d% .* amount asks for 99\.0%; lower it"):
        optimized(toy_cnn(8), amount=0.99)


def test_where_nothing_is_saved_the_technique_refuses() -> None:
    with pytest.raises(TechniqueError, match=r"no layer can be factored \(1, 3: its factors would not have fewer MACs"):
        optimized(toy_mlp(), rank=1.0)


@torch.no_grad()
def test_with_data_outputs_change_less() -> None:
    torch.manual_seed(0)
    model: Any = toy_mlp(64)
    model[1].weight[:, :32] *= 20  # the large weights of inputs that are always zero do not matter
    data_before = DATA.train[0].clone()
    DATA.train[0].view(-1, 64)[:, :32] = 0
    try:
        wanted = outputs(model)
        errors = [
            float((outputs(optimized(masks.clone(model), rank=0.3, data_aware=aware)[0]) - wanted).square().sum())
            for aware in (False, True)
        ]
    finally:
        DATA.train[0].copy_(data_before)
    assert errors[1] < 0.75 * errors[0]


def test_masked_and_shared_layers_stay_and_are_named(tmp_path: Path) -> None:
    outcome = done(run_text(CNN + PRUNE + FACTOR + TRAINED, tmp_path))
    assert not any({"ended", "promises"} & row.values.keys() for row in outcome.rows)
    reasons = {row["layer"]: row["reason"] for row in outcome.rows[2]["low-rank.kept"].table}
    assert reasons["3"].startswith("its weight is masked")
    _, findings = optimized(toy_tied(), rank=0.3)
    assert findings.left["first"] == "it shares its weight with another layer"


def test_layers_of_a_transformer_are_factored_but_not_its_attention() -> None:
    model, findings = optimized(toy_transformer(), rank=0.3)
    assert {row["layer"] for row in findings.rows} >= {"enter", "block.linear1", "block.linear2"}
    assert "block.self_attn.out_proj" in findings.left
    trained = model.train()(DATA.train[0][:16])
    torch.testing.assert_close(outputs(model), trained)


class Reading(nn.Module):
    """Calls a layer, and reads its size."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(64, 32)
        self.leave = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x.flatten(1))[:, : self.enter.out_features])


def test_a_network_that_reads_attributes_of_a_layer_is_told_to_exclude_it() -> None:
    with pytest.raises(TechniqueError, match=r"does more than call enter.*out_features.*; exclude it"):
        optimized(Reading(), rank=0.2)
    assert optimized(Reading(), rank=0.2, exclude=["enter"])[1].rows[0]["layer"] == "leave"


def test_a_layer_with_two_names_stays_one() -> None:
    layer = nn.Linear(64, 64)
    model, findings = optimized(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(64, 4)), rank=0.2)
    assert model[1] is model[3]
    assert findings.rows[0]["MACs before"] == 2 * 64 * 64


def test_hints_find_a_layer_that_was_factored(tmp_path: Path) -> None:
    hints = 'with = [{ technique = "distillation", params = { hints = [{ teacher = "3", student = "3" }] } }]\n'
    outcome = done(run_text(CNN + FACTOR + hints + TRAINED, tmp_path))
    assert "distillation.hints" in outcome.rows[1].values


def test_factors_are_cut_quantized_and_opened_again(tmp_path: Path) -> None:
    cut = '[[stages]]\ntechnique = "channels"\nparams = { amount = 0.2, round_to = 1 }\n'
    outcome = done(run_text(CNN + FACTOR + cut + INT8, tmp_path))
    parts = [row["parameters"] for row in outcome.rows]
    assert parts[1] < parts[0]
    assert parts[2] < parts[1]
    opened = model_files.load(outcome.directory)
    torch.testing.assert_close(outputs(opened), outputs(outcome.model))


@pytest.mark.slow  # the export of any model takes seconds
def test_factors_are_exported(tmp_path: Path) -> None:
    outcome = done(run_text(CNN + FACTOR + INT8 + '[[exports]]\nruntime = "onnxruntime"\n', tmp_path))
    assert outcome.rows[-1]["accuracy"] == pytest.approx(outcome.rows[-2]["accuracy"], abs=0.05)


def test_only_one_of_energy_rank_and_amount_is_set() -> None:
    with pytest.raises(ValidationError, match="energy and rank exclude each other; set one of them"):
        Params(energy=0.9, rank=0.5)
