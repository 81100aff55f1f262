"""A model in one small file: `pack` returns its bytes, `open_packed` the model.

Nothing here depends on how a model became small. A tensor with few distinct values is written as a table and
entropy-coded indices; one with many zeros as entropy-coded positions and the other entries; any other as it is, or in
float16 if that loses nothing. The skeleton of a network of plain layers is written as their arguments. The file
contains everything that is needed to run the model, except code. `slimmed` makes a model smaller at a small loss,
before it is measured and packed.
"""

from toolkit.model_files.packed.file import open_packed, pack
from toolkit.model_files.packed.slimming import slimmed

__all__ = ["open_packed", "pack", "slimmed"]
