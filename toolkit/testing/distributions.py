"""Installed distributions for tests: the metadata that pip would write, in a folder on `sys.path`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

GROUP = "toolkit"


def write_distribution(
    folder: Path, distribution: str, entry_points: Mapping[str, str], version: str = "1.0", extras: str = ""
) -> Path:
    """Write the metadata of a distribution next to its modules, and return its folder.

    Args:
        folder: folder of the modules, on `sys.path`.
        distribution: name of the distribution.
        entry_points: module of each plugin, by the name of the plugin.
        version: version of the distribution.
        extras: additional lines for METADATA.
    """
    name = distribution.replace("-", "_")
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    lines = [f"{plugin} = {module}" for plugin, module in entry_points.items()]
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nSummary: Made for a test.\n{extras}"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]), encoding="utf-8")
    return info
