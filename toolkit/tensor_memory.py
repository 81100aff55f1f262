"""The bytes of a tensor, for files and checksums."""

from __future__ import annotations

import torch
from torch import Tensor


def memory(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor: its own if it is contiguous and on the CPU, else those of a copy."""
    values = tensor.detach().resolve_conj().resolve_neg()  # conjugates and negatives may be views
    flat = values.cpu().contiguous().reshape(-1)
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().data  # one element has any stride
