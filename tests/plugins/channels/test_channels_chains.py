"""Channels in chains: masks and hints of other stages, files, exports, steps that are interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from channel_networks import ResNetA, resnet_on_pictures

from toolkit import masks, model_files
from toolkit.testing import Outcome, run_text

CNN = '[model]\nsource = "toolkit.testing:toy_cnn"\nargs = { channels = 16 }\ntraining = { epochs = 1, lr = 1e-2 }\n'
PRUNE = '[[stages]]\ntechnique = "pruning"\nparams = { sparsity = 0.6, scope = "layer" }\n'
CUT = '[[stages]]\ntechnique = "channels"\nparams = { amount = 0.5 }\n'
TRAINED = "finetune = { epochs = 1, weight_decay = 0.1 }\n"
REFILLING = """
import toolkit

@toolkit.hookimpl
def optimize(model):
    model = toolkit.masks.folded(model)
    model[0].weight.data.fill_(1.0)
    return model
"""
INT8 = '[[stages]]\ntechnique = "quantization"\n'


def done(outcome: Outcome) -> Outcome:
    assert not outcome.error, outcome.error
    return outcome


def zeros(model: torch.nn.Module) -> int:
    return sum(int((weight.value == 0).sum()) for weight in masks.named_weights(model) if weight.value.dim() > 1)


@pytest.mark.smoke
def test_zeros_of_an_earlier_stage_are_promised_where_they_are_now(tmp_path: Path) -> None:
    outcome = done(run_text(CNN + PRUNE + CUT + TRAINED + INT8, tmp_path))
    assert not any({"ended", "promises"} & row.values.keys() for row in outcome.rows)
    assert outcome.rows[2]["sparsity"] > 0.4
    assert outcome.rows[3]["sparsity"] >= outcome.rows[2]["sparsity"]


def test_quantized_layers_keep_their_channels_and_the_error_says_so(tmp_path: Path) -> None:
    outcome = run_text(CNN + INT8 + CUT, tmp_path)
    assert "(0, 3, 6: replaced by an earlier stage, as quantized layers are" in outcome.error
    assert "remove channels before that stage" in outcome.error


def test_zeros_that_are_refilled_after_a_cut_stop_the_run(tmp_path: Path, make_plugin: Callable[..., None]) -> None:
    make_plugin("refilling", REFILLING)
    outcome = run_text(CNN + PRUNE + CUT + '[[stages]]\ntechnique = "refilling"\n', tmp_path)
    assert "refilled zeros that stage 1 (pruning) made in '0.weight'" in outcome.error


def test_hints_find_their_layers_in_a_cut_student(tmp_path: Path) -> None:
    hints = 'with = [{ technique = "distillation", params = { hints = [{ teacher = "3", student = "3" }] } }]\n'
    outcome = done(run_text(CNN + CUT + hints + TRAINED, tmp_path))
    assert outcome.rows[1]["parameters"] <= 0.5 * outcome.rows[0]["parameters"]
    assert "distillation.hints" in outcome.rows[1].values


@pytest.mark.slow  # the export of any model takes seconds
def test_a_cut_model_is_saved_opened_and_exported(tmp_path: Path) -> None:
    export = '[[exports]]\nruntime = "onnxruntime"\n'
    outcome = done(run_text(CNN + CUT + INT8 + export, tmp_path))
    model: Any = outcome.model
    conv, linear = model[0], model[6]
    assert conv.weight.shape[0] == conv.out_channels == 8
    assert linear.dense_weight().shape == (4, 16 * model[3].out_channels)
    assert outcome.rows[-1]["accuracy"] == pytest.approx(outcome.rows[-2]["accuracy"], abs=0.05)


def test_a_network_with_lambdas_is_opened_with_its_source(tmp_path: Path) -> None:
    source = Path(__file__).with_name("channel_networks.py")
    outcome = done(run_text(resnet_on_pictures(blocks=1) + CUT.replace("0.5", "0.3"), tmp_path))
    opened: Any = model_files.load(outcome.directory, allow=[str(source), f"{source}:ResNetA"])
    assert isinstance(opened.conv1.out_channels, int)
    assert sum(p.numel() for p in opened.parameters()) == outcome.rows[1]["parameters"]
    assert sum(p.numel() for p in ResNetA(1, 8).parameters()) > outcome.rows[1]["parameters"]


def test_promised_zeros_stay_where_channels_go_in_steps(tmp_path: Path) -> None:
    steps = CUT.replace("amount = 0.5", "amount = 0.5, steps = 3") + TRAINED
    outcome = done(run_text(CNN + PRUNE + steps + INT8, tmp_path))
    assert not any({"ended", "promises"} & row.values.keys() for row in outcome.rows)
    assert outcome.rows[2]["channels.removed"] >= 0.5
    assert [dict(row) for row in outcome.rows[2]["channels.kept"].table] == [
        {"layer": "6", "reason": "they are outputs of the network"}
    ]
    assert outcome.rows[2]["parameters"] <= 0.5 * outcome.rows[0]["parameters"]
