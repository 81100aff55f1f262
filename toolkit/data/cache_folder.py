"""The folder of the toolkit in the user's cache: downloaded data, unpacked data, and results of stages."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "TOOLKIT_CACHE"


def cache_folder() -> Path:
    """Return `$TOOLKIT_CACHE` if it is set, else the toolkit's folder in the user's cache directory."""
    explicit = os.environ.get(CACHE_VARIABLE)
    return Path(explicit) if explicit else platformdirs.user_cache_path("torch-optimization-toolkit")
