"""What depends on what in a network: units that can be cut out, each with all that goes with it, and its blocks."""

from toolkit.structure.graph import with_parents
from toolkit.structure.groups import Group, Structure, analyze
from toolkit.structure.removal import cut, drop_idle_masks, remove
from toolkit.structure.residual import influence, remove_blocks, residual_blocks
from toolkit.structure.slots import Slot

__all__ = [
    "Group",
    "Slot",
    "Structure",
    "analyze",
    "cut",
    "drop_idle_masks",
    "influence",
    "remove",
    "remove_blocks",
    "residual_blocks",
    "with_parents",
]
