"""Measuring of an exported file, opened as far as it can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from toolkit.data.splits import Data
from toolkit.exports.stored import stored_export
from toolkit.exports.time_file import file_latency
from toolkit.hooks.loading import installed
from toolkit.metrics import answers, quality
from toolkit.rows import Row


def evaluate_export(folder: Path, data: Data, trust: bool, budget_s: float) -> Row:
    """Measure the quality, the size and the time of the file in an exported folder.

    Args:
        folder: as an export left it.
        data: on the CPU.
        trust: whether the files may run native code.
        budget_s: seconds for the timing.

    Raises:
        InputError: the files are damaged, or can hold code.
        TechniqueError: the runtime cannot run them.
    """
    exported = stored_export(folder, trust)
    blocked = [plugin.entry_point.module.partition(".")[0] for plugin in installed()]
    split = "test" if data.test is not None else "validation"
    batch_sizes = sorted({1, data.batch_size})
    with exported.opened(torch.get_num_threads(), blocked) as file, torch.no_grad():
        values: dict[str, Any] = {
            "size_bytes": exported.size_bytes,
            **quality(answers(file, data, split)),
            **file_latency(file, None, None, data, batch_sizes, budget_s),
        }
    return Row(folder.resolve().name, values, runtime=exported.runtime)
