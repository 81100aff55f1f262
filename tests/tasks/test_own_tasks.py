"""The tasks that are shipped, and one of a user's own: their maths, and every technique through each of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import toolkit
from toolkit import Batch, Classification, Data, MultiLabel, Pooled, Regression, Task, TokenClassification
from toolkit.errors import InputError
from toolkit.metrics import answers, quality
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.read import parse_recipe
from toolkit.runner.evaluation import evaluate
from toolkit.sources import resolve
from toolkit.storage.identity import result_keys, run_identity


def batch_of(targets, inputs=None):
    return Batch(targets if inputs is None else inputs, targets, torch.arange(len(targets)))


class Given(nn.Module):
    """Answers with what it is fed."""

    def forward(self, inputs):
        return inputs


def measured(task, outputs, targets, before=None, batch_size=3):
    """The quality of a model that says `outputs`, in batches that are not all of one size."""
    data = Data(train=(outputs, targets), test=(outputs, targets), task=task, batch_size=batch_size)
    found = answers(Given(), data)
    if before is None:
        return quality(found)
    earlier = Data(train=(before, targets), test=(before, targets), task=task, batch_size=batch_size)
    return quality(found, answers(Given(), earlier))


# Metrics of a whole split.


def test_a_pooled_metric_is_that_of_all_samples_together():
    right, counted = torch.tensor([1.0, 4.0, 0.0, 9.0]), torch.tensor([2.0, 5.0, 3.0, 10.0])
    values = Pooled(torch.stack([right, counted], dim=1), lambda means: means[0] / means[1]).values()
    share = 14 / 20
    assert values.shape == (4,)
    assert values.mean().item() == pytest.approx(share)
    # The variance of a ratio of sums, as textbooks on sampling have it.
    residuals = (right - share * counted) / counted.mean()
    assert values.var().item() == pytest.approx(residuals.var().item(), rel=1e-5)


def test_the_interval_of_a_pooled_metric_holds_the_truth_as_often_as_it_should():
    generator, inside = np.random.default_rng(0), 0
    place = torch.arange(20)
    for _ in range(300):
        counted = generator.integers(1, 20, 200)
        right = torch.from_numpy(generator.binomial(counted, 0.8))[:, None]
        targets = torch.where(place < torch.from_numpy(counted)[:, None], 1, -100)
        logits = torch.stack([place >= right, place < right], dim=2).float()
        parts = TokenClassification().scores(logits, batch_of(targets))["token_accuracy"]
        values = parts.values()
        arm = 1.96 * values.std().item() / 200**0.5
        inside += abs(values.mean().item() - 0.8) <= arm
    assert 0.91 <= inside / 300 <= 0.985


@pytest.mark.parametrize("value", [torch.zeros(2), torch.zeros(3, 2, 1), 3.0])
def test_a_metric_of_another_shape_is_named(value):
    class Wrong(Regression):
        def scores(self, outputs, batch):
            return {"odd": Pooled(value, torch.sum) if isinstance(value, torch.Tensor) and value.dim() > 1 else value}

    with pytest.raises(toolkit.ToolkitError, match="'odd'"):
        measured(Wrong(), torch.zeros(3, 1), torch.zeros(3, 1))


# Regression.


@pytest.mark.parametrize("shapes", [((7,), (7,)), ((7, 1), (7,)), ((7,), (7, 1)), ((7, 3), (7, 3))])
@pytest.mark.smoke
def test_regression_is_measured_by_the_formulas(shapes):
    found, targets = torch.randn(shapes[0]), torch.randn(shapes[1])
    row = measured(Regression(), found, targets)
    ours, theirs = (values.reshape(7, -1).double().numpy() for values in (found, targets))
    assert row["loss"] == pytest.approx(((ours - theirs) ** 2).mean(), rel=1e-5)
    assert row["mean_absolute_error"] == pytest.approx(abs(ours - theirs).mean(), rel=1e-6)
    assert row["r2"] == pytest.approx(1 - ((ours - theirs) ** 2).sum() / ((theirs - theirs.mean(0)) ** 2).sum())
    assert "accuracy" not in row
    assert "agreement" not in row


def test_regression_on_constant_targets_gives_numbers():
    row = measured(Regression(), torch.ones(5, 1), torch.ones(5, 1))
    assert (row["mean_absolute_error"], row["r2"]) == (0, 1)
    assert np.isfinite(measured(Regression(), torch.zeros(5, 1), torch.ones(5, 1))["r2"])


def test_regression_says_which_direction_is_better():
    data = Data(train=(torch.ones(2, 1), torch.ones(2)), task=Regression())
    assert data.quality == {"mean_absolute_error": "lower", "r2": "higher", "loss": "lower"}


# Several labels.


def test_multi_label_is_measured_by_counting():
    logits, targets = torch.randn(10, 4), torch.randint(2, (10, 4))
    row = measured(MultiLabel(), logits, targets)
    given, wanted = logits > 0, targets == 1
    hits, false, missed = ((a & b).sum().item() for a, b in ((given, wanted), (given, ~wanted), (~given, wanted)))
    assert row["f1"] == pytest.approx(2 * hits / (2 * hits + false + missed))
    assert row["label_accuracy"] == pytest.approx((given == wanted).double().mean().item())
    assert row["accuracy"] == pytest.approx((given == wanted).all(dim=1).double().mean().item())
    probabilities = logits.double().sigmoid()
    entropy = -torch.where(wanted, probabilities, 1 - probabilities).log()
    assert row["loss"] == pytest.approx(entropy.mean().item(), rel=1e-5)


def test_no_label_wanted_and_none_given_is_right():
    assert measured(MultiLabel(), -torch.ones(4, 2), torch.zeros(4, 2))["f1"] == 1


# Tokens.


def padded():
    logits, targets = torch.randn(8, 5, 3), torch.randint(3, (8, 5))
    targets[torch.arange(5) >= torch.randint(1, 6, (8, 1))] = -100
    return logits, targets


def test_tokens_are_counted_where_they_have_a_target():
    logits, targets = padded()
    row = measured(TokenClassification(), logits, targets, batch_size=8)
    counted = targets != -100
    right = (logits.argmax(-1) == targets)[counted]
    assert row["token_accuracy"] == pytest.approx(right.double().mean().item())
    chosen = logits.double().softmax(-1)[counted].gather(1, targets[counted][:, None])
    assert row["loss"] == pytest.approx(-chosen.log().mean().item(), rel=1e-5)
    # What is said at padding changes nothing, and is no disagreement either.
    other = torch.where(counted[..., None], logits, torch.randn(8, 5, 3))
    assert measured(TokenClassification(), other, targets, before=logits)["agreement"] == 1
    assert measured(TokenClassification(), other.flip(-1), targets, before=logits)["agreement"] < 1


def test_a_batch_without_a_target_is_no_reason_to_fail():
    logits, targets = torch.randn(2, 5, 3, requires_grad=True), torch.full((2, 5), -100)
    task, batch = TokenClassification(), batch_of(targets)
    loss = task.loss(logits, batch) + task.distance(logits, logits.detach() + 1, batch)
    loss.backward()
    assert loss.item() == 0


# How far two models are apart.


def divergence(p, q):
    return (p * (p / q).log()).sum(-1)


def expected_distance(task, own, other, targets, temperature):
    own, other = own.double(), other.double()
    if isinstance(task, Regression):
        return (own - other).square().mean()
    if isinstance(task, MultiLabel):
        pairs = [
            torch.stack([torch.sigmoid(x / temperature), torch.sigmoid(-x / temperature)], -1) for x in (other, own)
        ]
        return temperature**2 * divergence(*pairs).mean()
    values = divergence(*((x / temperature).softmax(-1) for x in (other, own)))
    return temperature**2 * (values[targets != -100] if isinstance(task, TokenClassification) else values).mean()


CASES = {
    "classification": (Classification(), (6, 4), torch.randint(4, (6,))),
    "regression": (Regression(), (6, 2), torch.randn(6, 2)),
    "multi-label": (MultiLabel(), (6, 4), torch.randint(2, (6, 4))),
    "token-classification": (TokenClassification(), (8, 5, 3), padded()[1]),
}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.smoke
def test_distances_are_those_of_the_formulas(name, temperature):
    task, shape, targets = CASES[name]
    own, other, batch = torch.randn(shape), torch.randn(shape), batch_of(targets)
    found = task.distance(own, other, batch, temperature)
    assert found.item() == pytest.approx(expected_distance(task, own, other, targets, temperature).item(), rel=1e-4)
    assert task.distance(own, own, batch, temperature).item() == pytest.approx(0, abs=1e-6)


def test_a_regression_with_one_output_is_told_apart():
    """The divergence of softened classes is 0 for a single one, whatever it says."""
    found = Regression().distance(torch.zeros(4, 1), torch.full((4, 1), 2.0), batch_of(torch.zeros(4)))
    assert found.item() == 4


# What cannot go together.


@pytest.mark.parametrize(
    ("task", "shape", "targets", "said"),
    [
        (Classification(), (3,), torch.tensor([0, 3]), "targets must be class indices from 0 to 2, found 3"),
        (Classification(), (3,), torch.tensor([-1, 2]), "targets must be class indices from 0 to 2, found -1"),
        (Classification(), (3,), torch.tensor([0.0, 1.0]), "targets must be class indices in int64, found float32"),
        (Classification(), (3,), torch.zeros(2, 3), "requires targets (N,), one class per sample, found (2, 3)"),
        (Classification(), (5, 3), torch.tensor([0, 1]), "requires logits (N, classes), found (N, 5, 3)"),
        (Regression(), (3,), torch.zeros(2), "one output per target, found outputs (3,) and targets () per sample"),
        (Regression(), (3,), torch.zeros(2, 1), "found outputs (3,) and targets (1,) per sample"),
        (MultiLabel(), (3,), torch.zeros(2), "one logit per label, found logits (3,) and targets () per sample"),
        (MultiLabel(), (3,), torch.full((2, 3), 0.5), "requires targets of 0 and 1"),
        (TokenClassification(), (3,), torch.tensor([0, 1]), "requires logits (N, length, classes), found (3,)"),
        (TokenClassification(), (4, 3), torch.zeros(2, 5).long(), "one class per token, (4,) per sample, found (5,)"),
        (
            TokenClassification(),
            (2, 3),
            torch.tensor([[-100, 3]]),
            "targets must be class indices from 0 to 2, found 3",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(task, shape, targets, said):
    assert said in task.mismatch(shape, targets)


@pytest.mark.parametrize("name", CASES)
def test_what_fits_is_not_refused(name):
    task, shape, targets = CASES[name]
    assert task.mismatch(shape[1:], targets) is None


# Every technique, through each of them, in a recipe.

OWN = """
import torch
from torch import nn
from toolkit import Task

FEATURES = 12

def split(samples, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, FEATURES, generator=generator)
    return inputs, inputs @ torch.randn(FEATURES, 3, generator=torch.Generator().manual_seed(9)) / 4

def pair(targets_of):
    made = [split(512, 1), split(256, 2)]
    return tuple((inputs, targets_of(values)) for inputs, values in made)

def regression():
    return pair(lambda values: values[:, 0])

def labels():
    return pair(lambda values: (values > 0).long())

def tokens():
    def targets(values):
        found = (values > 0).long()
        found[::3, 2] = -100
        return found
    return pair(targets)

def net(outputs=3, hidden=32):
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

def tagger(hidden=32):
    return nn.Sequential(net(6, hidden), nn.Unflatten(1, (3, 2)))

class Huber(Task):
    better = {"huber": "lower"}

    def loss(self, outputs, batch):
        return nn.functional.huber_loss(self.logits(outputs).squeeze(1), batch.targets)

    def scores(self, outputs, batch):
        return {"huber": nn.functional.huber_loss(self.logits(outputs).squeeze(1), batch.targets, reduction="none")}

class NoTask:
    pass

def none():
    return None
"""
STAGES = """
[measure]
budget = 0.2
[[stages]]
technique = "distillation"
params = {{ student = {{ source = "own.py:{net}", args = {{ {args} hidden = 16 }} }}, alpha = {alpha} }}
finetune = {{ epochs = 8, lr = 1e-2 }}
[[stages]]
technique = "pruning"
params = {{ sparsity = 0.3 }}
with = [{{ technique = "distillation", params = {{ teacher = "reference" }} }}]
finetune = {{ epochs = 2, lr = 1e-2 }}
[[stages]]
technique = "quantization"
"""


def recipe_for(folder: Path, task: str, data: str, net: str = "net", args: str = "", alpha: float = 0.7):
    (folder / "own.py").write_text(OWN)
    text = f"""
    [model]
    source = "own.py:{net}"
    args = {{ {args.rstrip(", ")} }}
    training = {{ epochs = 8, lr = 1e-2 }}
    [data]
    source = "own.py:{data}"
    task = "{task}"
    batch_size = 64
    """
    return parse_recipe(text + STAGES.format(net=net, args=args, alpha=alpha), "own.toml", folder)


@pytest.mark.parametrize(
    ("task", "data", "net", "args", "metric", "likeness"),
    [
        pytest.param(
            *("regression", "regression", "net", "outputs = 1, ", "mean_absolute_error", "distance"),
            marks=pytest.mark.slow,
        ),
        ("multi-label", "labels", "net", "", "f1", "agreement"),
        ("token-classification", "tokens", "tagger", "", "token_accuracy", "agreement"),
        ("own.py:Huber", "regression", "net", "outputs = 1, ", "huber", "distance"),
    ],
)
def test_every_technique_goes_through_the_task(tmp_path, task, data, net, args, metric, likeness):
    # Only the teacher's outputs, no label: what is learnt came through the distance.
    report = toolkit.run(recipe_for(tmp_path, task, data, net, args, alpha=1.0), output=tmp_path / "run")
    first = report.rows[0]
    for row in report.rows[1:]:
        assert f"{metric}_change_interval" in row.values
        worse = first[metric] - row[metric] if report.quality[metric] == "higher" else row[metric] - first[metric]
        assert worse < 0.1
    assert 0 <= report.rows[1][f"distillation.{likeness}"] <= 1
    assert ("agreement" in report.rows[1].values) == (likeness == "agreement")
    assert report.rows[2]["sparsity"] > 0.25
    assert report.rows[3]["quantization.layers"] == 2


def test_the_task_of_the_recipe_is_taken_and_part_of_what_makes_a_result(tmp_path):
    def key():
        recipe = recipe_for(tmp_path, "own.py:Huber", "regression", args="outputs = 1, ")
        return result_keys(recipe, run_identity(recipe, Data(train=(torch.zeros(2), torch.zeros(2))), FIXED))[0]

    FIXED = dict.fromkeys(("toolkit", "torch", "processor", "capability", "threads", "device"), "same")
    first = key()
    assert first == key()
    other = recipe_for(tmp_path, "regression", "regression", args="outputs = 1, ")
    assert first != result_keys(other, run_identity(other, Data(train=(torch.zeros(2), torch.zeros(2))), FIXED))[0]


def test_a_saved_model_is_measured_by_the_task_that_is_named(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    text = """
    [model]
    source = "own.py:net"
    args = { outputs = 1 }
    training = { epochs = 1 }
    [data]
    source = "own.py:regression"
    task = "own.py:Huber"
    [measure]
    budget = 0.1
    [[stages]]
    technique = "pruning"
    """
    report = toolkit.run(parse_recipe(text, "own.toml", tmp_path), output=tmp_path / "run")
    data, task = f"{tmp_path / 'own.py'}:regression", f"{tmp_path / 'own.py'}:Huber"
    with pytest.raises(InputError, match="the run's task is Python code, which runs only if you name it; pass --task "):
        evaluate(tmp_path / "run", data, budget_s=0.05)
    assert evaluate(tmp_path / "run", data, task=task, budget_s=0.05).final["huber"] == report.final["huber"]
    assert "r2" in evaluate(tmp_path / "run", data, task="regression", budget_s=0.05).final.values


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("regresion", "did you mean 'regression'?"),
        ("own.py:NoTask", "is not a task; make it a subclass of toolkit.Task"),
        ("own.py:Nothing", "has no 'Nothing'"),
    ],
)
def test_a_task_that_is_none_is_named(tmp_path, task, said):
    with pytest.raises(toolkit.RecipeError, match=r"data\.task: ") as refused:
        recipe_for(tmp_path, task, "regression")
    assert said in str(refused.value)


def test_a_function_that_makes_no_task_is_named(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    table = DataTable.model_validate({"source": "mnist", "task": "own.py:none"}, context={"directory": tmp_path})
    with pytest.raises(toolkit.ToolkitError, match=r"must return a toolkit\.Task, found NoneType"):
        table.make_task()


def test_built_in_tasks_have_names():
    names = {"classification": Classification, "regression": Regression, "multi-label": MultiLabel}
    assert {name: resolve(name, "task") for name in names} == names
    assert issubclass(resolve("token-classification", "task"), Task)
