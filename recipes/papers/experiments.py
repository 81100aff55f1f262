"""Which recipes reproduce which papers, with which variations of each, and what they have to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

# The numbers of one row of one run, by name: errors, samples, size_bytes, sparsity, and what techniques measured.
Numbers: TypeAlias = "dict[str, float]"
# The rows of one run, by the name of their stage.
Run: TypeAlias = "Mapping[str, Numbers]"
Overrides: TypeAlias = "dict[str, Any]"

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
KEPT = (0.5, 0.2, 0.1, 0.05, 0.02)  # fractions of the weights of a ticket


@dataclass(frozen=True)
class Measure:
    """A number of a run that is told, and what its mean over the seeds has to reach: at most, or at least, a limit.

    Of a recipe with variations `variation` says of which.
    """

    what: str
    value: Callable[[Run], float]
    most: float | None = None
    least: float | None = None
    variation: str = ""

    def is_reached_by(self, mean: float) -> bool:
        """Whether a mean is within the limit, if there is one."""
        return (self.most is None or mean <= self.most) and (self.least is None or mean >= self.least)


@dataclass(frozen=True)
class Experiment:
    """A shipped recipe, and what is varied of it: overrides by the label of the variation; what is told of the runs.

    `begins_like` is the recipe whose baseline, and maybe first stages, its runs find in the cache: their minutes are
    what they take besides.
    """

    recipe: str
    variations: Mapping[str, Overrides] = field(default_factory=lambda: {"": {}})
    measures: tuple[Measure, ...] = ()
    begins_like: str = ""


def number(stage: str, name: str) -> Callable[[Run], float]:
    """A number of a stage."""
    return lambda run: run[stage][name]


def fewer(stage: str, than: str) -> Callable[[Run], float]:
    """The share of the errors of one stage that another one does not make, in percent."""
    return lambda run: 100 * (1 - run[stage]["errors"] / run[than]["errors"])


def error_percent(stage: str) -> Callable[[Run], float]:
    """Wrong answers of a hundred."""
    return lambda run: 100 * run[stage]["errors"] / run[stage]["samples"]


def times(stage: str, of: str) -> Callable[[Run], float]:
    """The errors of one stage over those of another."""
    return lambda run: run[stage]["errors"] / run[of]["errors"]


def times_smaller(stage: str) -> Callable[[Run], float]:
    """The bytes of the baseline's parameters in float32 over those of the file."""
    return lambda run: 4 * run["baseline"]["parameters"] / run[stage]["size_bytes"]


def _compressed(
    error_most: float, times_least: float | None = None, size_most: float | None = None
) -> tuple[Measure, ...]:
    return (
        Measure("% of errors", error_percent("codebook"), most=error_most),
        Measure("bytes", number("codebook", "size_bytes"), most=size_most),
        Measure("times smaller", times_smaller("codebook"), least=times_least),
    )


def _pruned(*stages: int) -> Callable[[float], Overrides]:
    return lambda sparsity: {f"stages.{stage}.params.sparsity": sparsity for stage in stages}


def _over_one_shot(zeros: str) -> Measure:
    value = times("gradual", "one-shot")
    return Measure(f"errors over those of one-shot at {zeros}", value, most=1.0, variation=zeros)


def _over_dense(kept: str) -> tuple[Measure, Measure]:
    told = "over the dense network's"
    return (
        Measure(f"errors of the ticket of {kept} {told}", times("ticket", "dense"), most=1.05, variation=kept),
        Measure(f"errors of random {kept} {told}", times("random", "dense"), least=1.05, variation=kept),
    )


EXPERIMENTS = (
    Experiment(
        "papers/hinton-2015",
        measures=(
            Measure("errors of the teacher", number("baseline", "errors"), most=80),
            Measure("errors of the student alone", number("alone", "errors")),
            Measure("errors of the distilled student", number("distilled", "errors"), most=80),
            Measure("% fewer errors than alone", fewer("distilled", "alone"), least=35),
        ),
    ),
    Experiment(
        "papers/hinton-2015-no-threes",
        measures=(
            Measure("errors", number("distilled", "errors")),
            Measure("errors after correction", number("corrected", "errors"), most=120),
            Measure("% of threes right", lambda run: 100 * run["corrected"]["bias-correction.right_3"], least=97),
        ),
        begins_like="papers/hinton-2015",
    ),
    Experiment("papers/deep-compression-lenet-300-100", measures=_compressed(1.58, times_least=48)),
    Experiment("papers/deep-compression-lenet-5", measures=_compressed(0.74, times_least=60)),
    Experiment(
        "papers/gradual-pruning-2017",
        {f"{sparsity:.0%}": _pruned(1, 2, 3)(sparsity) for sparsity in SPARSITIES},
        tuple(_over_one_shot(f"{sparsity:.0%}") for sparsity in SPARSITIES if sparsity >= 0.9),
    ),
    Experiment(
        "papers/lottery-ticket-2018",
        {f"{kept:.0%}": _pruned(2, 4)(1 - kept) for kept in KEPT},
        tuple(measure for kept in ("20%", "10%") for measure in _over_dense(kept)),
    ),
    Experiment("records/lenet-5-3kb", measures=_compressed(0.65, size_most=2_600)),
    Experiment("records/lenet-5-1.5kb", measures=_compressed(0.80, size_most=1_500), begins_like="records/lenet-5-3kb"),
)
