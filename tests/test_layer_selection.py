"""Layers by pattern: what is selected, in which order, and what is refused."""

import pytest
import torch
from torch import nn

import toolkit
from toolkit import TechniqueError, masks
from toolkit.testing import toy_cnn, toy_lstm, toy_tied, toy_transformer


def paths(*arguments, **named):
    return [layer.weight.path for layer in toolkit.layers(*arguments, **named)]


def test_a_layer_comes_with_its_path_its_module_and_its_weight():
    model = toy_cnn()
    path, module, weight = toolkit.layers(model)[0]
    assert (path, weight.path) == ("0", "0.weight")
    assert module is model[0]
    assert weight.parameter is model[0].weight


def test_kinds_and_patterns_select():
    assert paths(toy_cnn()) == ["0.weight", "3.weight", "6.weight"]  # neither biases nor the batch norm
    assert paths(toy_cnn(), nn.Linear) == ["6.weight"]
    assert paths(toy_cnn(), (nn.Conv2d, nn.Linear), ["[06]"], ["6"]) == ["0.weight"]


def test_a_pattern_means_a_layer_or_one_of_its_weights():
    assert paths(toy_lstm(), layers=["lstm"]) == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert paths(toy_lstm(), layers=["lstm"], exclude=["*_hh_l0"]) == ["lstm.weight_ih_l0"]
    assert "block.self_attn.in_proj_weight" in paths(toy_transformer())


def test_a_shared_weight_comes_once_and_goes_if_one_of_its_layers_does():
    assert paths(toy_tied()) == ["enter.weight", "first.weight", "leave.weight"]
    assert paths(toy_tied(), layers=["second"]) == ["first.weight"]
    assert paths(toy_tied(), exclude=["second"]) == ["enter.weight", "leave.weight"]
    words = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    words[1].weight = words[0].weight
    assert paths(words, nn.Linear) == ["2.weight"]


def test_masked_layers_are_there_and_see_their_masks():
    model = toy_cnn()
    masks.apply(model, {"6.weight": torch.zeros_like(model[6].weight)})
    [layer] = toolkit.layers(model, nn.Linear)
    assert not layer.weight.value.any()


def test_a_model_may_be_one_layer():
    assert [(layer.path, layer.weight.path) for layer in toolkit.layers(nn.Linear(2, 2))] == [("", "weight")]


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"layers": ["fc9"]}, r"^no layer matches 'fc9'; known: 0, 3, 6$"),
        ({"exclude": ["fc9"]}, r"^no layer matches 'fc9'"),
        ({"exclude": ["*"]}, "^every selected layer is excluded, so that none is left; change layers or exclude$"),
        (
            {"kinds": (nn.LSTM, nn.GRU)},
            "^the model has no layer of kind LSTM or GRU with a float weight of two or more dimensions$",
        ),
    ],
)
def test_what_selects_nothing_is_refused(named, sentence):
    with pytest.raises(TechniqueError, match=sentence):
        toolkit.layers(toy_cnn(), **named)


@pytest.mark.parametrize("argument", ["layers", "exclude"])
def test_a_string_is_not_a_list_of_patterns(argument):
    with pytest.raises(TypeError, match="patterns must be a list of strings, not the string '0'"):
        toolkit.layers(toy_cnn(), **{argument: "0"})
