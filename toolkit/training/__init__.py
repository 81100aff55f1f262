"""How a stage trains, and the one loop that trains it."""

from toolkit.training.loop import OnStep as OnStep
from toolkit.training.loop import fit, use_fast_layout
from toolkit.training.plan import TrainedAlong, Training
from toolkit.training.settings import Precision as Precision
from toolkit.training.settings import TrainingSettings
from toolkit.training.step import autocast

__all__ = ["TrainedAlong", "Training", "TrainingSettings", "autocast", "fit", "use_fast_layout"]
