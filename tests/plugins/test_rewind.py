"""Rewinding: what is kept goes back to the reference, what is masked stays zero, and what cannot is refused."""

from typing import Any

import pytest
import toolkit_codebook
import toolkit_pruning
import toolkit_rewind
import torch
from toolkit_rewind import Params, redrawn
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import toolkit
from toolkit import masks
from toolkit.testing import TOY_MODELS, toy_cnn, toy_data, toy_lstm, toy_mlp, toy_tied
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(256)


def trained(model: nn.Module) -> nn.Module:
    """A trained copy."""
    twin = masks.clone(model)
    fit(twin, Training(TrainingSettings(epochs=2, lr=1e-2, weight_decay=0.1), DATA.task.loss), DATA)
    return twin.eval()


def pruned(model: nn.Module, sparsity: float = 0.6) -> nn.Module:
    settings = toolkit_pruning.Params(sparsity=sparsity)
    return toolkit_pruning.optimize(model=masks.clone(model), params=settings, data=DATA, prepared=[])


def rewound(model: nn.Module, reference: nn.Module, **params: Any) -> nn.Module:
    prepared = toolkit_rewind.prepare(reference=reference)
    return toolkit_rewind.optimize(model=masks.clone(model), params=Params(**params), prepared=prepared)


def measured(model: nn.Module, reference: nn.Module) -> dict[str, float]:
    prepared = toolkit_rewind.prepare(reference=reference)
    toolkit_rewind.optimize(model=masks.clone(model), params=Params(), prepared=prepared)
    return toolkit_rewind.measure(prepared=prepared)


def state(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor as a layer sees it."""
    return masks.folded(model).state_dict()


# To the reference


@pytest.mark.parametrize("toy", TOY_MODELS)
@pytest.mark.smoke
def test_what_remains_is_the_references_and_the_zeros_stay(toy: str) -> None:
    reference = TOY_MODELS[toy]().eval()
    model = pruned(trained(reference))
    after, before = rewound(model, reference), state(model)
    kept, initial = masks.current(model), reference.state_dict()
    assert masks.current(after).keys() == kept.keys()
    assert all(torch.equal(mask, kept[path]) for path, mask in masks.current(after).items())
    for name, value in state(after).items():
        expected = initial[name] * kept[name] if name in kept else initial[name]
        assert torch.equal(value, expected + 0.0), name
    assert any(not torch.equal(value, before[name]) for name, value in state(after).items())


@pytest.mark.parametrize("toy", TOY_MODELS)
def test_it_answers_as_the_masked_reference_does(toy: str) -> None:
    reference = TOY_MODELS[toy]().eval()
    model = pruned(trained(reference))
    by_hand = masks.clone(reference)
    masks.apply(by_hand, {path: mask for path, mask in masks.current(model).items() if path != "second.weight"})
    batch = DATA.example(8)
    with torch.no_grad():
        logits = [
            DATA.task.logits(DATA.task.forward(net.eval(), batch)) for net in (rewound(model, reference), by_hand)
        ]
    assert torch.equal(*logits)


def test_batch_norm_goes_back_with_its_statistics() -> None:
    reference = toy_cnn().eval()
    model = trained(reference)
    assert int(model.get_buffer("1.num_batches_tracked")) > 0
    after = rewound(model, reference)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(after.get_buffer(f"1.{name}"), reference.get_buffer(f"1.{name}"))


def test_buffers_that_are_not_saved_go_back_as_well() -> None:
    reference = toy_mlp()
    reference.register_buffer("phase", torch.ones(3), persistent=False)
    model = masks.clone(reference)
    model.get_buffer("phase").zero_()
    assert rewound(model, reference).get_buffer("phase").tolist() == [1, 1, 1]


def test_tied_weights_stay_tied() -> None:
    after = rewound(pruned(trained(toy_tied())), toy_tied())
    first, second = (getattr(after, name).parametrizations.weight.original for name in ("first", "second"))
    assert first is second
    assert rewound(trained(toy_tied()), toy_tied()).get_parameter("first.weight") is not None


def test_the_reference_is_left_alone_and_the_model_can_be_trained() -> None:
    reference = toy_lstm().eval().requires_grad_(False)
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    after = rewound(pruned(trained(toy_lstm())), reference)
    assert all(parameter.requires_grad for parameter in after.parameters())
    fit(after, Training(TrainingSettings(lr=1e-2), DATA.task.loss), DATA)
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())


def test_a_masked_reference_is_read_as_its_layers_see_it() -> None:
    reference = pruned(toy_mlp(), 0.3)
    after = rewound(trained(toy_mlp()), reference)
    assert all(torch.equal(value, state(reference)[name]) for name, value in after.state_dict().items())


def test_a_parametrization_that_both_have_goes_back_part_by_part() -> None:
    layer: Any = parametrizations.weight_norm(nn.Linear(64, 4))
    reference = nn.Sequential(nn.Flatten(), layer)
    model = trained(reference)
    mask = torch.arange(256).view(4, 64) % 2 == 0
    masks.apply(model, {"1.weight": mask})
    after: Any = rewound(model, reference)
    assert torch.equal(after[1].weight, layer.weight * mask)
    assert torch.equal(after[1].parametrizations.weight.original1, layer.parametrizations.weight.original1)


# Drawn anew


def test_random_draws_as_the_layers_do_under_the_same_masks() -> None:
    model = pruned(trained(toy_cnn()))
    torch.manual_seed(3)
    after = rewound(model, model, to="random")
    assert all(torch.equal(mask, masks.current(model)[path]) for path, mask in masks.current(after).items())
    by_hand = toy_cnn()
    torch.manual_seed(3)
    for name in ("6", "3", "1", "0"):
        by_hand.get_submodule(name).reset_parameters()  # type: ignore[operator]
    for name, value in state(after).items():
        kept = masks.current(model).get(name, torch.ones_like(value))
        assert torch.equal(value, by_hand.state_dict()[name] * kept + 0.0), name


@pytest.mark.parametrize("toy", TOY_MODELS)
def test_random_leaves_nothing_as_it_was(toy: str) -> None:
    torch.manual_seed(1)
    model = TOY_MODELS[toy]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    after = rewound(pruned(model, 0.2), model, to="random")
    for name, parameter in masks.folded(after).named_parameters():
        assert not (parameter[parameter != 0] > 1.5).any(), name
        assert not torch.equal(parameter, model.get_parameter(name)), name


def test_random_follows_the_global_generator() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return redrawn(model).get_parameter("1.weight")

    model = toy_mlp()
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_a_module_that_cannot_draw_its_weights_is_named() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(4))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * self.factor

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), Scale())
    sentence = r"the weights of '2' cannot be drawn anew: add a method reset_parameters\(\) to Scale"
    with pytest.raises(toolkit.TechniqueError, match=sentence):
        rewound(model, model, to="random")
    with pytest.raises(toolkit.TechniqueError, match="the weights of the model itself cannot be drawn anew"):
        rewound(Scale(), Scale(), to="random")


# What cannot be rewound


def test_another_architecture_is_refused_with_some_of_its_tensors() -> None:
    with pytest.raises(toolkit.TechniqueError) as caught:
        rewound(toy_mlp(16), toy_mlp(32))
    assert str(caught.value) == (
        "there is nothing to rewind 1.weight, 1.bias, 3.weight to: rewind before a stage that replaces the model or "
        "keeps its weights in another form, or start from an earlier row (from)"
    )
    with pytest.raises(
        toolkit.TechniqueError, match=r"rewind enter.weight, .*, block.self_attn.in_proj_bias and \d+ more"
    ):
        rewound(TOY_MODELS["transformer"](), toy_mlp())


@pytest.mark.parametrize("to", ["reference", "random"])
def test_weights_that_share_values_are_refused(to: str) -> None:
    model = pruned(toy_mlp())
    settings = toolkit_codebook.Params(bits=3)
    model = toolkit_codebook.optimize(model=model, params=settings, prepared=toolkit_codebook.prepare())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared, params = toolkit_rewind.prepare(reference=toy_mlp()), Params.model_validate({"to": to})
    sentence = r"nothing to rewind 1.weight \(Shared\), 3.weight \(Shared\) to: "
    with pytest.raises(toolkit.TechniqueError, match=sentence):
        toolkit_rewind.optimize(model=model, params=params, prepared=prepared)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# What is measured


def test_measure_counts_the_weights_and_says_how_far_they_moved() -> None:
    reference = toy_mlp()
    model = pruned(trained(reference), 0.75)
    found = measured(model, reference)
    zeros = round(0.75 * (64 * 32 + 32 * 4))
    assert found["weights"] == 64 * 32 + 32 + 32 * 4 + 4 - zeros
    before, after = ({**state(net)} for net in (model, rewound(model, reference)))
    moved = torch.cat([(after[name] - value).flatten() for name, value in before.items()]).double().norm()
    size = torch.cat([value.flatten() for value in before.values()]).double().norm()
    assert found["relative_distance"] == pytest.approx(float(moved / size), rel=1e-6)
    assert measured(reference, reference)["relative_distance"] == 0


def test_tied_weights_are_counted_once() -> None:
    model = toy_tied()
    assert measured(model, model)["weights"] == sum(parameter.numel() for parameter in model.parameters())


# In a run


LOTTERY = """
[model]
source = "toolkit.testing:toy_cnn"
training = { epochs = 1, lr = 1e-3 }
[[stages]]
technique = "pruning"
name = "train"
params = { sparsity = 0.0 }
finetune = { epochs = 2, lr = 1e-2 }
[[stages]]
technique = "pruning"
params = { sparsity = 0.8 }
[[stages]]
technique = "rewind"
[[stages]]
technique = "pruning"
name = "again"
params = { sparsity = 0.9 }
with = [{ technique = "rewind" }]
finetune = { epochs = 1, lr = 1e-2 }
"""


def test_a_chain_keeps_its_zeros_and_goes_back_to_the_baseline(recipe_run: Any) -> None:
    outcome = recipe_run(LOTTERY)
    assert outcome.error == ""
    models = [
        toolkit.load(folder)
        for folder in sorted((outcome.directory / "stages").iterdir(), key=lambda folder: folder.name)
    ]
    baseline, _, ticket, back, final = (state(model) for model in models)
    zeros = {name: value == 0 for name, value in ticket.items() if name in ("0.weight", "3.weight", "6.weight")}
    assert sum(int(zero.sum()) for zero in zeros.values()) == round(0.8 * (72 + 576 + 512))
    for name, value in back.items():
        kept = ~zeros[name] if name in zeros else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[kept], baseline[name][kept]), name
        assert not value[~kept].any()
    assert all(not final[name][zero].any() for name, zero in zeros.items())
    assert outcome.rows[3]["rewind.weights"] == outcome.rows[4]["rewind.weights"] + round(0.9 * 1160) - round(
        0.8 * 1160
    )
    assert outcome.rows[4]["pruning.sparsity"] == 0.9


def test_after_a_student_took_the_models_place_it_says_what_to_do(recipe_run: Any) -> None:
    outcome = recipe_run(
        '[model]\nsource = "toolkit.testing:toy_cnn"\n'
        '[[stages]]\ntechnique = "distillation"\nparams = { student = { source = "toolkit.testing:toy_mlp" } }\n'
        'finetune = { epochs = 1 }\n[[stages]]\ntechnique = "rewind"'
    )
    assert "there is nothing to rewind 1.weight, " in outcome.error
    assert "'rewind' (torch-optimization-toolkit" in outcome.error
