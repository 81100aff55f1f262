"""Which installed technique the layers in a file come from."""

from __future__ import annotations

from toolkit.errors import ArtifactError, ToolkitError
from toolkit.hooks import loading
from toolkit.stored_names import MARK


def import_technique_of(name: str) -> bool:
    """Import the technique that a class in a file belongs to; False if no installed technique is the one.

    Args:
        name: as it stands in the file, a stored name or a module path; only a technique's entry point is imported.

    Raises:
        ArtifactError: the technique cannot be imported.
    """
    for plugin in loading.installed():
        if name.startswith((f"{MARK}{plugin.name}.", f"{plugin.entry_point.module}.")):
            try:
                loading.load(plugin.name)
            except ToolkitError as error:
                raise ArtifactError(str(error)) from error
            return True
    return False
