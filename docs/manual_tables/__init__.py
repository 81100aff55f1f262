"""A Sphinx extension: the parts of the reference that are generated from the code, so that they cannot go stale.

A line `<!-- generated: NAME -->` of a page is replaced by the Markdown that the function of this name returns. A quote
that begins with "This file is a source of the manual" is for readers of the file, and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from manual_tables.built_in import augmentations, data_sources, models, tasks
from manual_tables.commands import commands
from manual_tables.plugins import observers, runtimes, techniques, unusable
from manual_tables.recipe import recipe

if TYPE_CHECKING:
    from sphinx.application import Sphinx

GENERATED: Mapping[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        augmentations,
        commands,
        data_sources,
        models,
        observers,
        recipe,
        runtimes,
        tasks,
        techniques,
        unusable,
    )
}
FOR_READERS_OF_THE_FILE = re.compile(r"^> This file is a source of the manual(?:.+\n)+\n", flags=re.MULTILINE)


def filled(text: str) -> str:
    """A page with its generated parts; a `KeyError` for one that nothing makes."""
    page = FOR_READERS_OF_THE_FILE.sub("", text)
    return re.sub(r"^<!-- generated: (\w+) -->$", lambda found: GENERATED[found[1]](), page, flags=re.MULTILINE)


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}


def _fill(_: Sphinx, __: str, source: list[str]) -> None:
    source[0] = filled(source[0])
