"""The share of MACs with which a share of the time goes: cuts are timed until the time of one is right twice.

Between two cuts that were timed, time is taken as linear in MACs. That only says what to time next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from toolkit.timing import TimeRatio

MAX_PROBES = 8  # before the last; each takes seconds, and an export where there is a runtime
TOLERANCE = 0.05  # of the time that was asked for
HALVINGS = 6  # of a step, to find a cut that was not timed yet


class Probe(NamedTuple):
    """A cut that was timed: the share of the MACs that it removes, and its time as a share of the uncut network's."""

    removed: float
    time: TimeRatio


def search(
    wanted: float, most: float, reached: Callable[[float], float], time: Callable[[float], TimeRatio]
) -> list[Probe]:
    """Return the cuts that were timed; the last one has the wanted time, or is as close to it as was found.

    Args:
        wanted: time of a call, as a share of the uncut network's.
        most: largest share of the MACs that can go.
        reached: returns the share of the MACs that goes if a share is asked for; layers lose whole channels.
        time: returns the time with a share of the MACs gone.
    """
    probes: list[Probe] = []
    share: float | None = reached(min(1 - wanted, most))
    while share is not None and len(probes) < MAX_PROBES:
        probes.append(Probe(share, time(share)))
        if not is_close(probes[-1].time.ratio, wanted):
            share = _next_share(_means(probes), wanted, most, reached)
        elif _is_checked(probes):
            return probes
    means = _means(probes)
    nearest = min((share for share in means if share), key=lambda share: abs(means[share] - wanted))
    if nearest != probes[-1].removed or not _is_checked(probes):
        probes.append(Probe(nearest, time(nearest)))
    return probes


def is_close(time: float, wanted: float) -> bool:
    """Return whether a time is as long as was asked for."""
    return abs(time - wanted) <= TOLERANCE * wanted


def _is_checked(probes: Sequence[Probe]) -> bool:
    """Return whether the latest cut was timed before."""
    return [probe.removed for probe in probes].count(probes[-1].removed) > 1


def _means(probes: Iterable[Probe]) -> dict[float, float]:
    """Return the mean time of each cut, and that of the uncut network."""
    times: dict[float, list[float]] = {0.0: [1.0]}
    for removed, time in probes:
        times.setdefault(removed, []).append(time.ratio)
    return {removed: sum(ratios) / len(ratios) for removed, ratios in times.items()}


def _next_share(
    means: Mapping[float, float], wanted: float, most: float, reached: Callable[[float], float]
) -> float | None:
    """Return the share of the MACs that seems to have the wanted time; None if all cuts near it were timed."""
    slow = max(share for share, time in means.items() if time > wanted)
    fast = min((share for share, time in means.items() if time <= wanted), default=None)
    last, latest = (time > wanted for time in list(means.values())[-2:])
    if fast is None:
        slope = (1 - means[slow]) / slow if slow else 0.0
        share = min(most, (1 - wanted) / slope) if slope > 0 else most
    elif fast <= slow or last == latest:  # noise, or a curve that a line approaches slowly
        share = (fast + slow) / 2
    else:
        share = slow + (fast - slow) * (means[slow] - wanted) / (means[slow] - means[fast])
    for _ in range(HALVINGS):
        if (cut := reached(share)) not in means:
            return cut
        share = (min(slow, share) + share) / 2
    return None
