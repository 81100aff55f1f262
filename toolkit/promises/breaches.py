"""Breaches of promises: each ends the run, or becomes a note in the stage's row."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from toolkit.errors import TechniqueError
from toolkit.promises import Promises
from toolkit.promises.examine import listed, summary
from toolkit.promises.fingerprint import Change
from toolkit.rows import BREACHES, Note

OnBreach = Literal["stop", "warn"]

log = logging.getLogger("toolkit")


class Breaches:
    """The breaches and the ended promises of one stage."""

    def __init__(self, stage: str, on_breach: OnBreach) -> None:
        self.stage, self.on_breach = stage, on_breach
        self._sentences: list[str] = []
        self._changes: list[Change] = []
        self._endings: list[str] = []
        self._ended: list[Change] = []

    def add(self, sentence: str, changes: Sequence[Change] = (), remedy: str = "") -> None:
        """Raise a `TechniqueError` with the sentence, the first change and the remedy, or record all for a note."""
        if changes:
            sentence = f"{sentence} {_shown(changes)}"
        if remedy:
            sentence = f"{sentence}; {remedy}"
        if self.on_breach == "stop":
            raise TechniqueError(sentence)
        log.warning("%s: %s", self.stage, sentence)
        self._sentences.append(sentence)
        self._changes.extend(changes if len(changes) > 1 else ())

    def end(self, reason: str, promises: Promises) -> None:
        """Record that these promises need not be preserved any more."""
        if promises:
            self._endings.append(f"{reason}: earlier promises end here ({summary(promises)})")
            self._ended.extend(listed(promises))

    def notes(self) -> dict[str, Note]:
        """Return the breaches as `promises` and the ended promises as `ended`."""
        notes = {}
        if self._sentences:
            notes[BREACHES] = Note("; ".join(self._sentences), [change._asdict() for change in self._changes])
        if self._endings:
            rows = [{"layer": change.layer, "ended": change.before} for change in self._ended]
            notes["ended"] = Note("; ".join(self._endings), rows)
        return notes


def _shown(changes: Sequence[Change]) -> str:
    first, more = changes[0], len(changes) - 1
    layer = first.layer if " " in first.layer else f"'{first.layer}'"
    return f"{layer}: {first.before} before, {first.after} after" + (f" (and {more} more)" if more else "")
