"""Changes of a number in a few words, the same in verdicts and beside the bars of a chart."""

from __future__ import annotations

from toolkit.number_text import signed, times


def speed_text(factor: float) -> str:
    """Return `2.00× as fast`, or for a factor below 1 `1.50× slower`."""
    return f"{times(factor)} as fast" if factor >= 1 else f"{times(1 / factor)} slower"


def factor_text(words: tuple[str, str], before: float, after: float) -> str:
    """Return `4.91× smaller`, with the word for a decrease or an increase; a difference if there is no ratio."""
    if before <= 0 or after <= 0:
        return difference_text("", before, after)
    return f"{times(before / after)} {words[0]}" if after < before else f"{times(after / before)} {words[1]}"


def difference_text(unit: str, before: float, after: float) -> str:
    """Return `+0.12 points`."""
    form = ".2f" if unit else ".3g"
    return " ".join(filter(None, [signed(after - before, form), unit]))
