"""Pruning: the weights that PyTorch's own pruning picks, exact counts, schedules, patterns, and what stays alone."""

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import toolkit_pruning
import torch
from pydantic import ValidationError
from toolkit_pruning import Params, ranking
from torch import Tensor, nn
from torch.nn.utils import prune

import toolkit
from toolkit import masks
from toolkit.hooks import loading as techniques
from toolkit.testing import TiedToy, toy_cnn, toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(256)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Two threads that wait for a busy core take a thousand times as long for models as small as these.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pruned(model: nn.Module, **params: Any) -> nn.Module:
    """What a stage without training makes of a copy of `model`."""
    settings = Params(**params)
    return toolkit_pruning.optimize(model=masks.clone(model), params=settings, data=DATA, prepared=[])


def finetuned(model: nn.Module, settings: Params, training: Training) -> Training:
    """What `finetune` makes of a training, the model having been through `optimize`."""
    selected = [toolkit_pruning.select(model, settings)]
    return toolkit_pruning.finetune(model=model, params=settings, data=DATA, prepared=selected, training=training)


def trained_with(model: nn.Module, *, epochs: int = 2, training: Any = None, **params: Any) -> nn.Module:
    """What a stage with a `finetune` table makes of a copy of `model`."""
    settings = Params(**params)
    model = pruned(model, **params)
    training = training or Training(TrainingSettings(epochs=epochs, lr=1e-2, weight_decay=0.1), DATA.task.loss)
    fit(model, finetuned(model, settings, training), DATA)
    return model


def measured(model: nn.Module, before: nn.Module, **params: Any) -> Any:
    settings = Params(**params)
    return toolkit_pruning.measure(model=model, prepared=[toolkit_pruning.select(before, settings)])


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {weight.path: weight.value for weight in masks.named_weights(model)}


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {path: value == 0 for path, value in weights(model).items()}


def zero_count(model: nn.Module) -> int:
    return sum(int(zero.sum()) for zero in zeros(model).values())


def layers_of(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(module, "weight") for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


# Which weights, and how many


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("make", [toy_mlp, toy_cnn])
@pytest.mark.smoke
def test_global_scope_chooses_what_global_unstructured_chooses(make: Any, sparsity: float) -> None:
    model = make()
    ours = pruned(model, sparsity=sparsity)
    prune.global_unstructured(layers_of(model), prune.L1Unstructured, amount=sparsity)
    for (theirs, _), path in zip(layers_of(model), masks.current(ours), strict=True):
        assert torch.equal(masks.current(ours)[path], theirs.get_buffer("weight_mask").bool()), path


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_layer_scope_chooses_what_l1_unstructured_chooses_in_each_layer(sparsity: float) -> None:
    model = toy_cnn()
    ours = pruned(model, sparsity=sparsity, scope="layer")
    for (module, _), path in zip(layers_of(model), masks.current(ours), strict=True):
        prune.l1_unstructured(module, "weight", amount=sparsity)
        assert torch.equal(masks.current(ours)[path], module.get_buffer("weight_mask").bool()), path


@pytest.mark.parametrize("sparsity", [0.0, 0.003, 1 / 3, 0.5, 0.777, 0.999])
@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "random"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_exactly_as_many_zeros_as_asked_for(sparsity: float, scope: str, criterion: str) -> None:
    model = pruned(toy_mlp(), sparsity=sparsity, scope=scope, criterion=criterion)
    sizes = [64 * 32, 32 * 4]
    if scope == "global":
        assert zero_count(model) == round(sparsity * sum(sizes))
    else:
        found = [int(zero.sum()) for path, zero in zeros(model).items() if path.endswith("weight")]
        assert found == [round(sparsity * size) for size in sizes]


def test_of_equal_weights_exactly_as_many_go_as_asked_for() -> None:
    scores = [torch.ones(4, 5), torch.ones(10)]
    first, second = ranking.smallest_masks(scores, 0.4)
    assert int((~first).sum()) == 12
    assert second.all()
    assert torch.equal(first.flatten(), torch.arange(20) >= 12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_half_precision_has_many_equal_weights_and_the_right_number_of_zeros(dtype: torch.dtype) -> None:
    model = pruned(toy_mlp().to(dtype), sparsity=0.6)
    assert zero_count(model) == round(0.6 * (64 * 32 + 32 * 4))
    assert weights(model)["1.weight"].dtype == dtype


def test_survivors_biases_and_norms_are_untouched() -> None:
    model = toy_cnn()
    nn.init.normal_(model.get_parameter("1.weight"))
    before, after = weights(model), weights(pruned(model, sparsity=0.9))
    for path, value in after.items():
        if path in ("0.weight", "3.weight", "6.weight"):
            assert torch.equal(value[value != 0], before[path][value != 0]), path
        else:
            assert torch.equal(value, before[path]), path
    assert masks.current(pruned(model, sparsity=0.9)).keys() == {"0.weight", "3.weight", "6.weight"}


def test_the_input_model_stays_as_it_was() -> None:
    model = toy_mlp()
    before = {path: value.clone() for path, value in weights(model).items()}
    pruned(model, sparsity=0.9)
    assert not masks.current(model)
    assert all(torch.equal(value, before[path]) for path, value in weights(model).items())


@pytest.mark.parametrize(
    "make",
    [
        partial(nn.Linear, 6, 8),
        partial(nn.Conv1d, 6, 8, 3),
        partial(nn.Conv2d, 6, 8, 3, groups=2),
        partial(nn.Conv3d, 6, 8, 2),
        partial(nn.ConvTranspose1d, 6, 8, 3),
        partial(nn.ConvTranspose2d, 6, 8, 3),
        partial(nn.ConvTranspose3d, 6, 8, 2),
    ],
    ids=lambda make: make.func.__name__,
)
def test_linear_layers_and_all_convolutions_are_pruned_even_alone(make: Any) -> None:
    after = pruned(make(), sparsity=0.5)
    assert int(zeros(after)["weight"].sum()) == zeros(after)["weight"].numel() // 2
    assert masks.current(after).keys() == {"weight"}


def test_nothing_else_is_pruned_and_that_is_said() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(9, 4), "norm": nn.LayerNorm(4), "head": nn.Linear(4, 9)})
    after = pruned(model, sparsity=0.5)
    assert masks.current(after).keys() == {"head.weight"}
    assert measured(after, model, sparsity=0.5)["layers"].text == (
        "embedding.weight is never pruned, because it belongs to a layer of kind Embedding"
    )


# Layers with several weights


class Sequences(nn.Module):
    """Rows of an image as a sequence, through a layer that knows sequences; logits of four classes."""

    def __init__(self, layer: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.squeeze(1)
        if isinstance(self.layer, nn.MultiheadAttention):
            keys = rows[..., : self.layer.kdim]
            states = self.layer(rows, keys, keys, need_weights=False)[0]
        elif isinstance(self.layer, nn.RNNBase):
            states = self.layer(rows)[0]
        elif isinstance(self.layer, nn.LSTMCell):
            states = self.layer(rows.flatten(0, 1))[0].unflatten(0, rows.shape[:2])
        else:
            states = self.layer(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
        return self.head(states.mean(dim=1))


SEQUENCES: dict[str, Any] = {
    "lstm": lambda: Sequences(nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True), 12),
    "projected lstm": lambda: Sequences(nn.LSTM(8, 12, proj_size=8, batch_first=True)),
    "gru": lambda: Sequences(nn.GRU(8, 8, batch_first=True)),
    "rnn": lambda: Sequences(nn.RNN(8, 8, batch_first=True)),
    "lstm cell": lambda: Sequences(nn.LSTMCell(8, 8)),
    "gru cell": lambda: Sequences(nn.GRUCell(8, 8)),
    "attention": lambda: Sequences(nn.MultiheadAttention(8, 2, batch_first=True)),
    "attention to others": lambda: Sequences(nn.MultiheadAttention(8, 2, batch_first=True, kdim=4, vdim=4)),
    "transformer": lambda: Sequences(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)),
}


def matrices(model: nn.Module) -> set[str]:
    return {path for path, value in weights(model).items() if value.ndim > 1}


@pytest.mark.parametrize("name", SEQUENCES)
def test_every_matrix_of_recurrent_and_attention_layers_is_pruned_and_stays_so_in_training(name: str) -> None:
    model = SEQUENCES[name]()
    after = pruned(model, sparsity=0.6, scope="layer")
    before = zeros(after)
    assert masks.current(after).keys() == matrices(model)
    for path in matrices(model):
        assert int(before[path].sum()) == round(0.6 * before[path].numel()), path
    biases = weights(model).keys() - matrices(model)
    assert all(torch.equal(weights(after)[path], weights(model)[path]) for path in biases)

    old = {path: value.clone() for path, value in weights(after).items()}
    training = Training(TrainingSettings.model_validate({"lr": 1e-2, "weight_decay": 0.1}), DATA.task.loss)
    fit(after, training, DATA)
    for path in matrices(model):
        assert torch.equal(zeros(after)[path], before[path]), path
        assert not torch.equal(weights(after)[path], old[path]), path

    plain, inputs = masks.folded(after).eval(), DATA.example(5).inputs
    assert isinstance(plain, Sequences)
    assert all(torch.equal(value, weights(after)[path]) for path, value in weights(plain).items())
    for no_gradients in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with no_gradients:  # fused functions read the weights of these layers themselves
            torch.testing.assert_close(after.eval()(inputs), plain(inputs), rtol=1e-4, atol=1e-5)


def test_one_name_selects_a_whole_layer_or_one_of_its_weights() -> None:
    model = SEQUENCES["lstm"]()
    recurrent = {path for path in matrices(model) if path.startswith("layer.")}
    assert masks.current(pruned(model, layers=["layer"])).keys() == recurrent
    assert masks.current(pruned(model, exclude=["layer"])).keys() == {"head.weight"}
    only = masks.current(pruned(model, layers=["*.weight_hh_*"])).keys()
    assert only == {path for path in recurrent if "weight_hh" in path}
    assert masks.current(pruned(model, exclude=["layer.weight_ih_l0"])).keys() == matrices(model) - {
        "layer.weight_ih_l0"
    }
    with pytest.raises(
        toolkit.TechniqueError, match=r"no prunable layer matches 'layer\.weight_l0'; known: layer\.weight"
    ):
        pruned(model, layers=["layer.weight_l0"])
    table = measured(pruned(model, sparsity=0.5), model, sparsity=0.5)["layers"].table
    assert {row["layer"] for row in table} == recurrent | {"head"}
    assert sum(row["zeros"] for row in table) == round(0.5 * sum(row["weights"] for row in table))


def test_n_of_m_and_gradual_pruning_reach_recurrent_and_attention_layers() -> None:
    for name in ("lstm", "transformer"):
        after = pruned(SEQUENCES[name](), pattern="2:4", exclude=["head"])
        for path, mask in masks.current(after).items():
            assert (mask.unflatten(1, (-1, 4)).sum(-1) == 2).all(), path
        trained = trained_with(SEQUENCES[name](), sparsity=0.5, schedule="gradual", steps_between=1)
        counts = {path: int(zero.sum()) for path, zero in zeros(trained).items() if path in masks.current(trained)}
        assert counts.keys() == matrices(trained)
        assert sum(counts.values()) == round(0.5 * sum(weights(trained)[path].numel() for path in counts))


# Pruning again


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "random"])
def test_a_second_pruning_only_adds_zeros_and_counts_those_there_are(scope: str, criterion: str) -> None:
    first = pruned(toy_cnn(), sparsity=0.4, criterion="random")
    second = pruned(first, sparsity=0.7, scope=scope, criterion=criterion)
    assert all((mask <= masks.current(first)[path]).all() for path, mask in masks.current(second).items())
    total = sum(mask.numel() for mask in masks.current(second).values())
    if scope == "global":
        assert zero_count(second) - zero_count(toy_cnn()) == round(0.7 * total)
    else:
        for path, mask in masks.current(second).items():
            expected = max(round(0.7 * mask.numel()), int((~masks.current(first)[path]).sum()))
            assert int((~mask).sum()) == expected, path


@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "random"])
def test_asking_for_less_than_there_is_adds_none(criterion: str) -> None:
    first = pruned(toy_mlp(), sparsity=0.8)
    second = pruned(first, sparsity=0.5, criterion=criterion)
    assert all(torch.equal(masks.current(second)[path], mask) for path, mask in masks.current(first).items())


def test_masked_weights_go_before_weights_that_happen_to_be_zero() -> None:
    model = toy_mlp()
    with torch.no_grad():
        model.get_parameter("1.weight")[:, :32] = 0.0
    masks.apply(model, {"1.weight": (torch.arange(64) < 32).expand(32, 64)})
    first = masks.current(model)["1.weight"]
    again = pruned(model, sparsity=0.5, layers=["1"])
    assert torch.equal(masks.current(again)["1.weight"], first)  # not half of these and half of those


def test_a_weight_that_training_moved_under_its_mask_does_not_come_back() -> None:
    model = pruned(toy_mlp(), sparsity=0.5)
    for weight in masks.named_weights(model):
        with torch.no_grad():
            weight.parameter[weight.value == 0] = 100.0
    again = pruned(model, sparsity=0.75)
    assert all((mask <= masks.current(model)[path]).all() for path, mask in masks.current(again).items())
    assert zero_count(again) == round(0.75 * (64 * 32 + 32 * 4))


# Shared weights


def test_tied_weights_are_counted_once_and_stay_tied() -> None:
    model = TiedToy()
    after = pruned(model, sparsity=0.5)
    assert isinstance(after, TiedToy)
    unique = {"enter": 64 * 16, "first": 16 * 16, "leave": 16 * 4}
    assert sum(int(zeros(after)[f"{layer}.weight"].sum()) for layer in unique) == round(0.5 * sum(unique.values()))
    assert torch.equal(after.first.weight, after.second.weight)
    table = measured(after, model, sparsity=0.5)["layers"].table
    assert {row["layer"]: row["weights"] for row in table} == unique
    trained = trained_with(after, sparsity=0.5)
    plain = masks.folded(trained)
    assert isinstance(plain, TiedToy)
    assert plain.first.weight is plain.second.weight
    assert torch.equal(plain.second.weight == 0, zeros(after)["first.weight"])


def test_any_name_of_a_tied_weight_selects_it_and_any_excludes_it() -> None:
    assert masks.current(pruned(TiedToy(), layers=["second"])).keys() == {"first.weight", "second.weight"}
    after = pruned(TiedToy(), exclude=["second"])
    assert masks.current(after).keys() == {"enter.weight", "leave.weight"}


def test_a_weight_shared_with_an_embedding_is_left_alone_and_said_to_be() -> None:
    model = nn.Sequential(OrderedDict(embed=nn.Embedding(9, 4), middle=nn.Linear(4, 4), head=nn.Linear(4, 9)))
    model.head.weight = model.embed.weight  # type: ignore[union-attr]
    after = pruned(model, sparsity=0.5)
    assert masks.current(after).keys() == {"middle.weight"}
    assert "head is left alone: it shares its weight" in measured(after, model)["layers"].text
    with pytest.raises(toolkit.TechniqueError, match=r"no layer is left to prune \(head: .*embed\.weight"):
        pruned(model, layers=["head"])


# Training afterwards


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_afterwards_keeps_exactly_the_zeros(optimizer: str) -> None:
    model = trained_with(toy_cnn(), sparsity=0.0)
    before = zeros(pruned(model, sparsity=0.8))
    training = Training(
        TrainingSettings.model_validate({"optimizer": optimizer, "lr": 1e-2, "weight_decay": 0.1}), DATA.task.loss
    )
    after = zeros(trained_with(model, sparsity=0.8, training=training))
    for path in ("0.weight", "3.weight", "6.weight"):
        assert torch.equal(after[path], before[path]), path


def test_one_shot_leaves_the_training_as_it_is() -> None:
    training = Training(TrainingSettings(), DATA.task.loss)
    assert finetuned(toy_mlp(), Params(), training) is training


# The gradual schedule


def steps_of(model: nn.Module, steps: int, **params: Any) -> list[int]:
    """The number of zeros after each step, the weights staying as they are."""
    settings = Params(schedule="gradual", **params)
    model = pruned(model, schedule="gradual", **params)
    training = Training(TrainingSettings(), DATA.task.loss)
    (tighten,) = finetuned(model, settings, training).step_functions
    counts = [zero_count(model)]
    for step in range(1, steps + 1):
        tighten(step, steps)
        counts.append(zero_count(model))
    return counts


def test_cubic_sparsity_is_the_papers_formula() -> None:
    assert ranking.cubic_sparsity(0.0, 0.2, 0.9) == pytest.approx(0.2)
    assert ranking.cubic_sparsity(1.0, 0.2, 0.9) == 0.9
    # Zhu and Gupta's s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n Δt))^3, half way
    assert ranking.cubic_sparsity(0.5, 0.0, 0.8) == pytest.approx(0.8 - 0.8 / 8)


def test_a_gradual_schedule_follows_the_cubic_curve_and_then_rests() -> None:
    size = 64 * 32 + 32 * 4
    counts = steps_of(toy_mlp(), 100, sparsity=0.9, schedule_end=0.5, steps_between=10)
    expected = [round(size * (0.9 - 0.9 * (1 - step // 10 / 5) ** 3)) for step in range(50)]
    assert counts[:50] == expected
    assert counts[50:] == [round(0.9 * size)] * 51


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("schedule_end", [0.01, 0.75, 1.0])
def test_a_gradual_schedule_rises_and_ends_exactly(scope: str, steps: int, schedule_end: float) -> None:
    counts = steps_of(toy_mlp(), steps, sparsity=0.83, scope=scope, schedule_end=schedule_end, steps_between=4)
    assert counts[0] == 0
    assert counts == sorted(counts)
    sizes = [64 * 32 + 32 * 4] if scope == "global" else [64 * 32, 32 * 4]
    assert counts[-1] == sum(round(0.83 * size) for size in sizes)


@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "random"])
@pytest.mark.parametrize("make", [toy_mlp, toy_cnn, TiedToy])
def test_gradual_pruning_in_a_training_ends_exactly(make: Any, criterion: str) -> None:
    seen: list[int] = []
    training = Training(TrainingSettings(epochs=3, lr=1e-2, weight_decay=0.1), DATA.task.loss)
    training = training.using(after_step=lambda step, steps: seen.append(step))
    params: dict[str, Any] = {"sparsity": 0.9, "schedule": "gradual", "steps_between": 1, "criterion": criterion}
    model = make()
    after = trained_with(model, training=training, **params)
    table = measured(after, model, **params)["layers"].table
    assert sum(row["zeros"] for row in table) == round(0.9 * sum(row["weights"] for row in table))
    assert seen == list(range(1, 13))  # the function that was there is called as well


def test_gradual_pruning_ranks_the_weights_as_they_are_while_training() -> None:
    model = toy_mlp()
    at_once = zeros(pruned(model, sparsity=0.9))["1.weight"]
    gradual = zeros(trained_with(model, sparsity=0.9, schedule="gradual", steps_between=1, epochs=4))["1.weight"]
    assert not torch.equal(at_once, gradual)


def test_gradual_pruning_goes_on_from_the_zeros_there_are() -> None:
    size = 64 * 32 + 32 * 4
    first = pruned(toy_mlp(), sparsity=0.5)
    counts = steps_of(first, 4, sparsity=0.9, schedule_end=1.0, steps_between=1)
    assert counts == [round(size * (0.9 - 0.4 * (1 - step / 4) ** 3)) for step in range(5)]
    fewer = steps_of(first, 4, sparsity=0.2, schedule_end=1.0, steps_between=1)
    assert fewer == [round(size * 0.5)] * 5


def test_gradual_pruning_layer_by_layer_begins_at_the_least_pruned_layer() -> None:
    first = pruned(toy_mlp(), sparsity=0.8, layers=["1"])
    counts = steps_of(first, 10, sparsity=0.9, scope="layer", schedule_end=1.0, steps_between=1)
    small = [count - round(0.8 * 64 * 32) for count in counts[:3]]  # while layer 1 waits
    assert small == [round(128 * (0.9 - 0.9 * (1 - step / 10) ** 3)) for step in range(3)]


def test_a_gradual_schedule_needs_a_training() -> None:
    assert Params(schedule="gradual").needs_finetune
    assert not Params().needs_finetune


# N of every M


def kept_by_hand(weight: Tensor, n: int, m: int) -> Tensor:
    """For every weight, how many of its group along dimension 1 are larger; the `n` with the fewest stay."""
    mask = torch.zeros_like(weight, dtype=torch.bool)
    for start in range(0, weight.shape[1], m):
        group = weight[:, start : start + m].abs()
        larger = (group.unsqueeze(1) > group.unsqueeze(2)).sum(2)
        mask[:, start : start + m] = larger < n
    return mask


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (4, 8)])
@pytest.mark.parametrize(
    "make",
    [
        partial(nn.Linear, 16, 6),
        partial(nn.Conv1d, 8, 3, 2),
        partial(nn.Conv2d, 8, 6, 3),
        partial(nn.Conv2d, 16, 4, 3, groups=2),
    ],
    ids=["Linear", "Conv1d", "Conv2d", "grouped Conv2d"],
)
def test_n_of_every_m_inputs_stay_the_largest_ones(make: Any, n: int, m: int) -> None:
    layer = make()
    after = pruned(layer, pattern=f"{n}:{m}")
    assert torch.equal(masks.current(after)["weight"], kept_by_hand(weights(layer)["weight"], n, m))
    assert measured(after, layer, pattern=f"{n}:{m}")["sparsity"] == 1 - n / m


def test_the_inputs_of_a_transposed_convolution_are_its_weights_first_dimension() -> None:
    layer = nn.ConvTranspose2d(8, 6, 3)
    mask = masks.current(pruned(layer, pattern="2:4"))["weight"]
    assert torch.equal(mask.transpose(0, 1), kept_by_hand(layer.weight.detach().transpose(0, 1), 2, 4))
    grouped = nn.ConvTranspose2d(12, 6, 3, groups=2)  # six inputs in each group
    with pytest.raises(toolkit.TechniqueError, match="its input size 6 is not divisible by 4"):
        pruned(grouped, pattern="2:4")


def test_equal_weights_leave_exactly_n_of_m() -> None:
    mask = ranking.n_of_m_mask(torch.ones(3, 8, 2), 2, 4)
    assert (mask.unflatten(1, (2, 4)).sum(2) == 2).all()


def test_n_of_m_keeps_earlier_zeros_and_adds_only_what_is_missing() -> None:
    layer = nn.Linear(16, 6)
    first = pruned(layer, pattern="3:4", criterion="random")
    mask = masks.current(pruned(first, pattern="2:4"))["weight"]
    assert (mask <= masks.current(first)["weight"]).all()
    assert (mask.unflatten(1, (4, 4)).sum(2) == 2).all()


def test_layers_that_m_does_not_divide_are_left_alone_and_said_to_be() -> None:
    model = toy_cnn()
    after = pruned(model, pattern="2:4")
    assert masks.current(after).keys() == {"3.weight", "6.weight"}
    note = measured(after, model, pattern="2:4")["layers"]
    assert note.text == "0 is left alone: its input size 1 is not divisible by 4"
    assert [row["layer"] for row in note.table] == ["3", "6"]
    with pytest.raises(toolkit.TechniqueError, match=r"no layer is left.*\(0: its input size 1 is not div"):
        pruned(model, pattern="2:4", layers=["0"])


def test_a_pattern_implies_its_sparsity() -> None:
    assert Params(pattern="1:4").sparsity == 0.75
    assert Params(pattern="1:4", sparsity=0.75) == Params(pattern="1:4")
    assert Params(pattern="1:3", sparsity=0.67).sparsity == 0.67
    written = Params(pattern="1:4").model_dump()
    assert Params(**written) == Params(pattern="1:4")  # a resolved recipe reads back


@pytest.mark.parametrize(
    ("values", "place", "message"),
    [
        ({"pattern": "1:4", "sparsity": 0.5}, "pattern", "1:4 implies sparsity 0.75, found 0.5"),
        ({"pattern": "2:4", "schedule": "gradual"}, "pattern", "does not work with a gradual schedule"),
        ({"pattern": "4:4"}, "pattern", "0 < N < M, found '4:4'"),
        ({"pattern": "0:4"}, "pattern", "0 < N < M, found '0:4'"),
        ({"pattern": "2 of 4"}, "pattern", "must be 'unstructured' or N:M"),
        ({"pattern": 24}, "pattern", "valid string"),
        ({"sparsity": 1.0}, "sparsity", "less than 1"),
        ({"sparsity": -0.1}, "sparsity", "greater than or equal to 0"),
        ({"sparsity": float("nan")}, "sparsity", "finite"),
        ({"sparsity": "0.5"}, "sparsity", "valid number"),
        ({"steps_between": 0}, "steps_between", "greater than or equal to 1"),
        ({"schedule_end": 0.0}, "schedule_end", "greater than 0"),
        ({"scope": "column"}, "scope", "'global', 'layer' or 'row'"),
        ({"criterion": "wanda", "scope": "global"}, "criterion", "not of all layers; set scope to 'row' or 'layer'"),
        ({"criterion": "movement", "schedule": "one-shot"}, "schedule", "set schedule to 'gradual'"),
        ({"criterion": "movement", "scan": True}, "scan", "no scores before the training; leave out scan"),
        ({"criterion": "movement", "pattern": "2:4"}, "pattern", "does not work with movement, which prunes gradually"),
        ({"layers": []}, "layers", "at least 1"),
        ({"sparsty": 0.5}, "sparsty", "not permitted"),
    ],
)
def test_wrong_settings_are_refused_where_they_are(values: Any, place: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Params.model_validate(values)
    (error,) = caught.value.errors()
    assert error["loc"] == (place,)
    assert message in error["msg"]


def test_every_setting_has_a_default_and_a_description() -> None:
    assert Params() == Params.model_validate({})
    assert all(field.description for field in Params.model_fields.values())


# Names of layers


def test_layers_and_exclude_select_by_name() -> None:
    assert masks.current(pruned(TiedToy(), layers=["enter", "l*"])).keys() == {"enter.weight", "leave.weight"}
    after = pruned(TiedToy(), sparsity=0.75, exclude=["leave"])
    assert not masks.current(after).keys() & {"leave.weight"}
    assert sum(int(zeros(after)[path].sum()) for path in ("enter.weight", "first.weight")) == 0.75 * (1024 + 256)


@pytest.mark.parametrize("field", ["layers", "exclude"])
@pytest.mark.parametrize(("pattern", "known"), [("entre", "known: enter$"), ("zzz*", "enter, first, second, leave$")])
def test_a_pattern_that_matches_nothing_is_an_error_that_names_what_there_is(
    field: str, pattern: str, known: str
) -> None:
    with pytest.raises(toolkit.TechniqueError, match=f"no prunable layer matches '{pattern[:3]}.*{known}"):
        toolkit_pruning.select(TiedToy(), Params.model_validate({field: ["*r*", pattern]}))


def test_a_pattern_for_a_layer_of_another_kind_matches_nothing() -> None:
    with pytest.raises(toolkit.TechniqueError, match="no prunable layer matches '1'; known: 0, 3, 6"):
        toolkit_pruning.select(toy_cnn(), Params(layers=["1"]))  # batch norm


def test_a_model_without_prunable_layers_is_refused() -> None:
    with pytest.raises(toolkit.TechniqueError, match="no linear, convolutional, recurrent or attention layer"):
        toolkit_pruning.select(nn.Sequential(nn.Flatten(), nn.LayerNorm(4)), Params())


def test_excluding_everything_is_refused() -> None:
    with pytest.raises(toolkit.TechniqueError, match=r"no layer is left to prune \(1: excluded; 3: excluded\)"):
        toolkit_pruning.select(toy_mlp(), Params(exclude=["*"]))


# The control


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_random_is_another_choice_of_the_same_number(scope: str) -> None:
    model = toy_mlp()
    magnitude = pruned(model, sparsity=0.5, scope=scope)
    control = pruned(model, sparsity=0.5, scope=scope, criterion="random")
    assert zero_count(control) == zero_count(magnitude)
    same = (zeros(control)["1.weight"] == zeros(magnitude)["1.weight"]).float().mean()
    assert 0.4 < same < 0.6  # independent of the magnitudes


def test_random_follows_the_global_generator() -> None:
    def choice(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return zeros(pruned(model, criterion="random"))["1.weight"]

    model = toy_mlp()
    assert torch.equal(choice(1), choice(1))
    assert not torch.equal(choice(1), choice(2))


# What is reported


def test_measure_reports_each_layer_and_all_together() -> None:
    model = toy_mlp()
    found = measured(pruned(model, sparsity=0.75, scope="layer"), model)
    assert found["sparsity"] == 0.75
    assert found["layers"].text == ""
    assert found["layers"].table == [
        {"layer": "1", "weights": 2048, "zeros": 1536, "sparsity": 0.75},
        {"layer": "3", "weights": 128, "zeros": 96, "sparsity": 0.75},
    ]


def test_measure_counts_only_the_layers_that_were_asked_for() -> None:
    model = toy_mlp()
    assert measured(pruned(model, sparsity=0.5, layers=["3"]), model, layers=["3"])["sparsity"] == 0.5


class Replacement(nn.Module):
    """A layer as a quantizer leaves it behind."""

    replaces = "Linear"

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.dense = weights(layer)["weight"]

    def dense_weight(self) -> Tensor:
        return self.dense


def test_measure_reads_layers_that_another_technique_of_the_stage_replaced() -> None:
    model = toy_mlp()
    after = pruned(model, sparsity=0.75)
    for name in ("1", "3"):
        after.register_module(name, Replacement(after.get_submodule(name)))
    assert measured(after, model)["sparsity"] == 0.75


@pytest.mark.parametrize("layers", [["*"], ["leave"]])
def test_a_student_that_took_the_models_place_in_the_stage_is_pruned_instead(layers: list[str]) -> None:
    prepared = toolkit_pruning.prepare()
    after = toolkit_pruning.optimize(
        model=TiedToy(), params=Params(sparsity=0.5, layers=layers), data=DATA, prepared=prepared
    )
    found: Any = toolkit_pruning.measure(model=after, prepared=prepared)
    assert found["sparsity"] == 0.5
    expected = ["enter", "first", "leave"] if layers == ["*"] else layers
    assert [row["layer"] for row in found["layers"].table] == expected


def test_a_model_that_a_later_technique_put_in_has_nothing_to_measure() -> None:
    prepared = toolkit_pruning.prepare()
    toolkit_pruning.optimize(model=TiedToy(), params=Params(), data=DATA, prepared=prepared)
    found: Any = toolkit_pruning.measure(model=toy_mlp(), prepared=prepared)
    assert set(found) == {"layers"}


def test_it_is_installed_and_its_hooks_are_what_the_toolkit_calls() -> None:
    technique = techniques.load("pruning")
    assert technique.params_class is Params
    assert all(technique.implements(hook) for hook in ("prepare", "optimize", "finetune", "measure"))
    with pytest.raises(
        toolkit.TechniqueError, match=r"'pruning' \(.*\) refused in optimize: no prunable layer matches 'x'"
    ):
        technique.call("optimize", model=toy_mlp(), params=Params(layers=["x"]), data=DATA, prepared=[])
