"""A model in one file as small as what was achieved: `pack` makes its bytes, `open_packed` the model again.

Nothing here knows how a model became small. Tensors with few distinct values are written as a table and entropy-coded
indices, those with many zeros as entropy-coded positions and the rest, all others as they are, or in float16 where that
loses nothing at all, and the skeleton of a network of plain layers as what they are made with. All that it takes to run
the model, besides code, is in the file. `slimmed` makes a model that takes less where little is lost, before it is
packed and measured.
"""

from toolkit.model_files.packed.file import open_packed, pack
from toolkit.model_files.packed.slimming import slimmed

__all__ = ["open_packed", "pack", "slimmed"]
