"""A share of the time of a call: the share of the MACs that has to go for it, found by timing cut networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

import toolkit
from toolkit import masks
from toolkit.structure import Structure, remove
from toolkit.timing import Timer, TimeRatio
from toolkit_channels.params import Params
from toolkit_channels.ranking import Before, choose, largest_share
from toolkit_channels.search import TOLERANCE, Probe, is_close, search


@dataclass(frozen=True)
class ByTime:
    """What was found for a share of the time.

    Attributes:
        wanted: time of a call that was asked for, as a share of the uncut network's.
        params: the params with a share of the MACs in place of that of the time.
        probes: the cuts that were timed; the last one is what is left.
        timer: what timed them.
    """

    wanted: float
    params: Params
    probes: list[Probe]
    timer: Timer

    def check(self, model: nn.Module, removed: float) -> None:
        """Time the network that is left in the end."""
        self.probes.append(Probe(removed, self.timer.ratio(model)))

    @property
    def time(self) -> TimeRatio:
        """What the time has become: the mean of all timings of the last cut, and what all their intervals cover."""
        times = [probe.time for probe in self.probes if probe.removed == self.probes[-1].removed]
        lows, highs = [time.low for time in times], [time.high for time in times]
        return TimeRatio(sum(time.ratio for time in times) / len(times), min(lows), max(highs))

    @property
    def note(self) -> toolkit.Note:
        """What was asked for, what was reached, and a table of all cuts that were timed."""
        text = (
            f"asked for {self.wanted:.3g} of the time of a call, reached {_told(self.time)} in {self.timer.runtime} at "
            f"batch size {self.timer.batch_size}, {_verdict(self.time, self.wanted)}; times decided, and the resolved "
            "recipe has the share of the MACs that they led to"
        )
        return toolkit.Note(text, [{"macs_removed": removed, **time._asdict()} for removed, time in self.probes])


def find(
    model: nn.Module,
    structure: Structure,
    scores: Mapping[int, float],
    params: Params,
    before: Before,
    data: toolkit.Data,
    timer: Timer,
) -> ByTime:
    """Return the share of the MACs with which the share of the time goes that `params` ask for.

    Args:
        model: not changed; copies of it are cut.
        structure: that of the model.
        scores: by unit.
        params: with `of` the time.
        before: the network that the stage began with, by its MACs.
        data: its task runs the model.
        timer: times each cut.

    Raises:
        TechniqueError: so much of the time cannot go, or the network cannot be cut or timed.
    """
    asked, wanted = params.model_copy(update={"of": "macs"}), 1 - params.amount
    most = largest_share(structure, scores, asked, before)

    def reached(share: float) -> float:
        return 1 - structure.cost(asked.of, choose(structure, scores, asked, share, before)) / before.cost

    def time(share: float) -> TimeRatio:
        candidate = masks.clone(model)
        remove(candidate, structure, choose(structure, scores, asked, share, before), data)
        answer = timer.ratio(candidate)
        if share >= most and answer.low > (1 + TOLERANCE) * wanted:
            raise toolkit.TechniqueError(_too_much(answer, params, timer))
        return answer

    probes = search(wanted, most, reached, time)
    return ByTime(wanted, asked.model_copy(update={"amount": probes[-1].removed}), probes, timer)


def _verdict(time: TimeRatio, wanted: float) -> str:
    if is_close(time.low, wanted) and is_close(time.high, wanted):
        return f"which is within {TOLERANCE:.0%}"
    if time.high < (1 - TOLERANCE) * wanted or time.low > (1 + TOLERANCE) * wanted:
        return f"which is not within {TOLERANCE:.0%}"
    return f"and the interval does not tell whether that is within {TOLERANCE:.0%}"


def _too_much(time: TimeRatio, params: Params, timer: Timer) -> str:
    return (
        f"amount = {params.amount:g} of the latency_ms cannot go, a call takes {_told(time)} of the time in "
        f"{timer.runtime} when all has gone that can with floor = {params.floor:g} and round_to = {params.round_to}; "
        "lower amount, floor or round_to, or exclude fewer layers"
    )


def _told(time: TimeRatio) -> str:
    return f"{time.ratio:.3f} ({time.low:.3f} to {time.high:.3f})"
