"""A share of the time of a call: what is timed until it is reached, and that runs repeat what the times decided."""

import random
from pathlib import Path
from typing import Any

import pytest
import toolkit_channels
import torch
from channel_networks import data_of
from toolkit_channels import Findings, Params
from toolkit_channels.search import MAX_PROBES, TOLERANCE, search
from torch import nn

import toolkit
from toolkit import masks
from toolkit.metrics.macs import macs
from toolkit.models import lenet5
from toolkit.recipe.read import parse_recipe
from toolkit.runner import in_progress
from toolkit.testing import Outcome, run_text, toy_cnn, toy_data
from toolkit.timing import Timer, TimeRatio
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(128)
CNN = '[model]\nsource = "toolkit.testing:toy_cnn"\nargs = { channels = 32 }\ntraining = { epochs = 1, lr = 1e-2 }\n'
CUT = '[[stages]]\ntechnique = "channels"\nparams = { amount = 0.4, of = "latency_ms", round_to = 1 }\n'


def exactly(ratio: float, width: float = 0.0) -> TimeRatio:
    return TimeRatio(ratio, ratio - width / 2, ratio + width / 2)


CURVES = {
    "as the macs": lambda share: 1 - share,
    "with an overhead": lambda share: 0.3 + 0.7 * (1 - share),
    "slower than the macs": lambda share: (1 - share) ** 0.4,
    "faster than the macs": lambda share: (1 - share) ** 3,
    "suddenly": lambda share: max(0.95 - 0.1 * share, 0) - 5 * min(max(share - 0.5, 0), 0.1),
}


@pytest.mark.smoke
@pytest.mark.parametrize("wanted", [0.4, 0.5, 0.6])
@pytest.mark.parametrize("curve", list(CURVES))
def test_the_share_of_the_time_is_reached_and_timed_twice(curve: str, wanted: float) -> None:
    probes = search(wanted, 0.99, lambda share: share, lambda share: exactly(CURVES[curve](share)))
    assert abs(probes[-1].time.ratio - wanted) <= TOLERANCE * wanted
    assert probes[-1] == probes[-2]
    assert len(probes) <= MAX_PROBES


def test_of_few_cuts_the_nearest_is_taken() -> None:
    def reached(share: float) -> float:
        return next(cut for cut in (0.2, 0.35, 0.8) if cut >= share)

    probes = search(0.5, 0.8, reached, lambda share: exactly(1 - share))
    assert probes[-1].removed == 0.35
    assert [probe.removed for probe in probes] == [0.8, 0.35, 0.35]


@pytest.mark.parametrize("seed", range(20))
def test_noise_ends_after_a_number_of_probes_near_the_wanted_time(seed: int) -> None:
    draw = random.Random(seed)
    probes = search(0.5, 0.99, lambda share: share, lambda share: exactly((1.2 - share) * draw.uniform(0.85, 1.15)))
    assert len(probes) <= MAX_PROBES + 1
    assert 0.5 < probes[-1].removed < 0.9


def counting(model: nn.Module, data: toolkit.Data, overhead: float = 0.0, width: float = 0.02) -> Timer:
    """Return a timer to which a call takes as long as its MACs, and something that does not depend on them."""
    before = macs(model, data)
    return Timer("fake", 2, lambda cut: exactly(overhead + (1 - overhead) * macs(cut, data) / before, width))


def cut(model: nn.Module, timer: Timer, data: toolkit.Data = DATA, **params: Any) -> tuple[Any, Findings]:
    findings = toolkit_channels.prepare(timer=timer)
    settings = Params(of="latency_ms", **params)
    result = toolkit_channels.optimize(model=masks.clone(model).eval(), params=settings, data=data, prepared=findings)
    return result, findings


def test_so_many_channels_go_that_the_time_is_right() -> None:
    model, data = lenet5(), data_of(1, 28, 28)
    result, findings = cut(model, counting(model, data, overhead=0.25), data, amount=0.5, round_to=1)
    assert macs(result, data) / macs(model, data) == pytest.approx(1 / 3, abs=0.04)
    measured = toolkit_channels.measure(model=result, prepared=findings)
    assert measured["removed"] == pytest.approx(0.5, abs=0.025)
    note = measured["time"]
    assert isinstance(note, toolkit.Note)
    assert note.text.startswith("asked for 0.5 of the time of a call, reached 0.")
    assert "in fake at batch size 2, which is within 5%; times decided" in note.text
    assert list(note.table[0]) == ["macs_removed", "ratio", "low", "high"]
    assert note.table[-1] == note.table[-2]


@pytest.mark.parametrize(
    ("width", "said"),
    [(0.3, "and the interval does not tell whether that is within 5%"), (0.001, "which is within 5%")],
)
def test_the_report_says_what_the_interval_shows(width: float, said: str) -> None:
    model = toy_cnn(32)
    result, findings = cut(model, counting(model, DATA, width=width), amount=0.5, round_to=1)
    assert said in toolkit_channels.measure(model=result, prepared=findings)["time"].text  # type: ignore[union-attr]


def test_two_timings_that_differ_widen_the_interval() -> None:
    model, answers = toy_cnn(32), iter([0.5, 0.52])
    result, findings = cut(model, Timer("fake", 1, lambda _: exactly(next(answers), 0.01)), amount=0.5, round_to=1)
    measured = toolkit_channels.measure(model=result, prepared=findings)
    assert measured["removed"] == pytest.approx(0.49)
    assert "reached 0.510 (0.495 to 0.525) in fake" in measured["time"].text  # type: ignore[union-attr]


def test_the_report_says_that_no_cut_is_near() -> None:
    model = toy_cnn(16)
    result, findings = cut(model, counting(model, DATA, width=0.01), amount=0.2, floor=0.5)
    assert "which is not within 5%" in toolkit_channels.measure(model=result, prepared=findings)["time"].text  # type: ignore[union-attr]


def test_a_time_that_cannot_be_reached_is_refused_with_what_can() -> None:
    model = toy_cnn(32)
    with pytest.raises(
        toolkit.TechniqueError,
        match=r"amount = 0.8 of the latency_ms cannot go, a call takes 0\.6\d\d \(0\.\d+ to 0\.\d+\) of the",
    ):
        cut(model, counting(model, DATA, overhead=0.6), amount=0.8)


def test_in_steps_the_share_is_found_once_and_the_end_is_timed() -> None:
    model = toy_cnn(32)
    timer = counting(model, DATA)
    params = Params(amount=0.5, of="latency_ms", steps=2, round_to=1)
    half, findings = cut(model, timer, amount=0.5, steps=2, round_to=1)
    assert macs(masks.folded(half), DATA) / macs(model, DATA) == pytest.approx(0.75, abs=0.04)
    asked = len(timer.answers)
    training = Training(TrainingSettings(epochs=2, lr=1e-2), DATA.task.loss)
    training = toolkit_channels.finetune(model=half, params=params, data=DATA, prepared=findings, training=training)
    fit(half, training, DATA)
    result = toolkit_channels.finish(model=half, params=params, data=DATA, prepared=findings)
    assert len(timer.answers) == asked + 1
    assert macs(result, DATA) / macs(model, DATA) == pytest.approx(0.5, abs=0.03)
    assert toolkit_channels.measure(model=result, prepared=findings)["removed"] == pytest.approx(0.5, abs=0.03)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Runs are timed by counting, each MAC costing as much as the next; returns the answers."""
    answers: list[float] = []

    def fake(recipe: Any, stage: Any, incoming: nn.Module, data: toolkit.Data, blocked: Any) -> Timer:
        counted = counting(incoming, data)

        def measure(model: nn.Module) -> TimeRatio:
            answers.append(counted.ratio(model).ratio)
            return exactly(answers[-1])

        return Timer("fake", 1, measure)

    monkeypatch.setattr(in_progress, "stage_timer", fake)
    return answers


@pytest.mark.parametrize("rest", ["", "[stages.finetune]\nepochs = 1\n"], ids=["alone", "trained"])
def test_the_resolved_recipe_repeats_the_cut_without_timing(tmp_path: Path, asked: list[float], rest: str) -> None:
    first = done(run_text(CNN + CUT + rest, tmp_path / "one"))
    assert asked
    assert first.rows[1]["channels.removed"] == pytest.approx(0.4, abs=0.04)
    resolved = (first.directory / "recipe.toml").read_text()
    assert 'of = "macs"' in resolved
    asked.clear()
    again = done(run_text(resolved, tmp_path / "two"))
    assert not asked
    assert same(first.model, again.model)


def done(outcome: Outcome) -> Outcome:
    assert not outcome.error, outcome.error
    return outcome


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


@pytest.mark.cache
def test_a_cached_stage_keeps_what_was_decided(tmp_path: Path, asked: list[float]) -> None:
    text = CNN + '[data]\nsource = "toolkit.testing:toy_data"\n[measure]\nbudget = 0.1\n' + CUT
    recipe = parse_recipe(text, "toy.toml", tmp_path)
    first = toolkit.run(recipe, output=tmp_path / "one").rows[1]
    count = len(asked)
    again = toolkit.run(recipe, output=tmp_path / "two").rows[1]
    assert again["reused"]
    assert len(asked) == count
    assert again["channels.time"] == first["channels.time"]
