"""A model in one file as small as its compression earned: `pack` makes the bytes, `open_packed` the model again.

Nothing here knows how a model became small. A tensor with few distinct values is written as a table and entropy-coded
indices; one with many zeros as entropy-coded positions and the other entries; any other as it is, or in float16 where
that loses nothing at all. The skeleton of a network of plain layers is written as the arguments that make them. The
file holds everything that running the model takes, except code. `slimmed` makes a model smaller at a small loss, before
it is measured and packed.
"""

from toolkit.model_files.packed.file import open_packed, pack
from toolkit.model_files.packed.slimming import slimmed

__all__ = ["open_packed", "pack", "slimmed"]
