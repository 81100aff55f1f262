"""Numbers as text: with a unit, their significant digits, and their uncertainty."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

MINUS = "\N{MINUS SIGN}"
# Characters that XML or UTF-8 cannot represent; names of layers and notes may contain any.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: Any) -> str:
    """Replace the characters that a page or a terminal cannot show."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text))


def bytes_text(size: float) -> str:
    """Return a size with a unit of a power of 1000: `1.73 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{_three_digits(size)} {unit}"
        size /= 1000
    return f"{_three_digits(size)} TB"


def count_text(count: float) -> str:
    """Return a count to three digits: `431 k`."""
    return bytes_text(count).replace("B", "").rstrip()


def percent(fraction: float | None, digits: int = 2) -> str:
    """Return a fraction in percent: `99.14 %`; an empty string for None."""
    return "" if fraction is None else f"{100 * fraction:.{digits}f} %"


def signed(number: float, form: str = ".2f") -> str:
    """Return a number with its sign, zero without one: `−0.04`, `+0.10`, `0.00`."""
    text = f"{number:+{form}}"
    return text[1:] if not float(text) else text.replace("-", MINUS)


def half_width(value: float, interval: Sequence[float] | None) -> float | None:
    """Return the longer arm of an interval around a value; None without an interval."""
    return None if interval is None else max(interval[1] - value, value - interval[0], 0.0)


def plus_minus(value: float, interval: Sequence[float] | None, form: str = ".2f") -> str:
    """Return a signed value with the longer arm of its interval: `−0.04 ± 0.11`."""
    arm = half_width(value, interval)
    return signed(value, form) + ("" if arm is None else f" ± {arm:{form}}")


def milliseconds(time: float) -> str:
    """Return a time in milliseconds, to three digits: `0.164 ms`."""
    return f"{_three_digits(time)} ms"


def times(factor: float) -> str:
    """Return a factor: `2.00×`, `18.7×`."""
    return f"{factor:.1f}×" if factor >= 9.95 else f"{factor:.2f}×"


def seconds(time: float) -> str:
    """Return a duration: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(time)
    if whole < 60:
        return f"{time:.1f} s" if time < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plain(value: Any) -> str:
    """Return any value as text: floats to four digits, integers with all digits."""
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", MINUS) if value else "0"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace("-", MINUS)
    return "" if value is None else printable(value)


def _three_digits(number: float) -> str:
    return f"{number:.3g}".replace("-", MINUS)
