"""Movement pruning: the scores that gradient descent written out has, weights that come back, and where it ends."""

from typing import Any

import pytest
import toolkit_pruning
import torch
from toolkit_pruning import Params
from toolkit_pruning.movement import LearnedScores
from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit.testing import TiedToy, toy_cnn, toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(256)
LR, SCORES_LR = 0.05, 0.3


def planned(model: nn.Module, training: Training, **params: Any) -> tuple[nn.Module, Training]:
    settings, prepared = Params(criterion="movement", **params), toolkit_pruning.prepare()
    model = toolkit_pruning.optimize(model=model, params=settings, data=DATA, prepared=prepared)
    return model, toolkit_pruning.finetune(
        model=model, params=settings, data=DATA, prepared=prepared, training=training
    )


def linear() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))


def smallest(scores: Tensor, count: int) -> Tensor:
    mask = torch.ones(scores.numel())
    mask[scores.flatten().argsort()[:count]] = 0.0
    return mask.view(scores.shape)


def by_hand(weight: Tensor, order: list[toolkit.Batch], counts: list[int]) -> tuple[Tensor, Tensor, int]:
    """Gradient descent on a linear layer: what becomes of weight and scores, and how many weights came back.

    S accumulates -dL/dW' * W, where W' = W * M is what the network sees, and W follows dL/dW' * M.
    """
    weight, scores, kept, back = weight.clone(), torch.zeros_like(weight), torch.ones_like(weight), 0
    for batch, count in zip(order, counts, strict=True):
        seen = (weight * kept).requires_grad_()
        (gradient,) = torch.autograd.grad(DATA.task.loss(batch.inputs.flatten(1) @ seen.T, batch), [seen])
        weight, scores = weight - LR * gradient * kept, scores - SCORES_LR * gradient * weight
        now = smallest(scores, count)
        back += int(((now == 1) & (kept == 0)).sum())
        kept = now
    return weight, kept, back


@pytest.mark.smoke
def test_scores_and_weights_are_those_of_the_paper_and_weights_come_back() -> None:
    model, order = linear(), []
    weight = model.get_parameter("1.weight").detach().clone()

    def loss(outputs: Any, batch: toolkit.Batch) -> Tensor:
        order.append(batch)
        return DATA.task.loss(outputs, batch)

    settings = TrainingSettings(
        epochs=4, lr=LR, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", clip_norm=None
    )
    params: dict[str, Any] = {"sparsity": 0.5, "steps_between": 1, "schedule_end": 1.0, "scores_lr": SCORES_LR}
    model, training = planned(model, Training(settings, loss), **params)
    fit(model, training, DATA)
    steps = len(order)
    counts = [round(256 * (0.5 - 0.5 * (1 - step / steps) ** 3)) for step in range(1, steps + 1)]
    expected, kept, back = by_hand(weight, order, counts)
    assert back > 0
    assert torch.equal(masks.current(model)["1.weight"], kept.bool())
    seen = next(masks.named_weights(model)).value
    torch.testing.assert_close(seen, expected * kept, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_pulls_towards_zero_lowers_the_score_even_of_a_weight_that_has_gone() -> None:
    module = LearnedScores(torch.ones(2, 2))
    module.kept[0] = 0.0
    weight = torch.tensor([[2.0, -3.0], [4.0, 5.0]], requires_grad=True)
    seen = module(weight)
    assert torch.equal(seen, weight * module.kept)
    seen.backward(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    assert module.scores.grad is not None
    assert module.scores.grad.tolist() == [[2, -3], [4, -5]]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, 0], [1, -1]]


@pytest.mark.parametrize("scope", ["global", "layer", "row"])
@pytest.mark.parametrize("make", [toy_mlp, toy_cnn, TiedToy])
def test_it_ends_exactly_where_the_schedule_says(make: Any, scope: str) -> None:
    training = Training(TrainingSettings(epochs=2, lr=1e-2, weight_decay=0.1), DATA.task.loss)
    model, training = planned(make(), training, sparsity=0.75, scope=scope, steps_between=1)
    fit(model, training, DATA)
    found = {id(weight.parameter): masks.current(model).get(weight.path) for weight in masks.named_weights(model)}
    unique = [mask for mask in found.values() if mask is not None]
    if scope == "global":
        sizes = sum(mask.numel() for mask in unique)
        assert sum(int((~mask).sum()) for mask in unique) == round(0.75 * sizes)
    else:
        assert all(float((~mask).float().mean()) == pytest.approx(0.75, abs=0.05) for mask in unique)


def test_the_masks_stay_once_the_schedule_has_ended() -> None:
    seen: list[Tensor] = []
    training = Training(TrainingSettings(epochs=4, lr=1e-2), DATA.task.loss)
    model, training = planned(toy_mlp(), training, sparsity=0.75, steps_between=1, schedule_end=0.5)
    fit(model, training.using(after_step=lambda step, steps: seen.append(masks.current(model)["1.weight"])), DATA)
    half = len(seen) // 2
    assert all(mask.all() for mask in seen[: half - 1])  # only the steps see the masks
    assert not seen[half - 1].all()
    assert all(torch.equal(mask, seen[half - 1]) for mask in seen[half:])


def test_zeros_of_an_earlier_stage_stay_and_count() -> None:
    model: nn.Module = toy_mlp()
    first = torch.rand(32, 64, generator=torch.Generator().manual_seed(0)) > 0.5
    masks.apply(model, {"1.weight": first})
    training = Training(TrainingSettings(epochs=2, lr=1e-2), DATA.task.loss)
    model, training = planned(model, training, sparsity=0.75, layers=["1"], steps_between=1)
    fit(model, training, DATA)
    found = masks.current(model)["1.weight"]
    assert (found <= first).all()
    assert int((~found).sum()) == round(0.75 * found.numel())


def test_it_is_gradual_and_needs_a_training() -> None:
    assert Params(criterion="movement").schedule == "gradual"
    assert Params(criterion="movement").needs_finetune
    assert Params(**Params(criterion="movement").model_dump()) == Params(criterion="movement")
