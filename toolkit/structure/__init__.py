"""The structure of a network: which channels, heads and residual blocks can go, and everything that goes with them.

`analyze` walks through a network and returns its groups of units. A unit is what one removed channel takes along:
indices of tensors. `remove` cuts units out, and checks that the network computes what it would with them masked.
"""

from toolkit.structure.blocks import remove_blocks, residual_blocks
from toolkit.structure.graph import with_parents
from toolkit.structure.groups import Group, Structure, analyze
from toolkit.structure.removal import cut, drop_idle_masks, remove
from toolkit.structure.slots import Slot

__all__ = [
    "Group",
    "Slot",
    "Structure",
    "analyze",
    "cut",
    "drop_idle_masks",
    "remove",
    "remove_blocks",
    "residual_blocks",
    "with_parents",
]
