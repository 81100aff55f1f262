"""What every technique keeps to, as tests to inherit: the runner, the report and all other techniques rely on it."""

from __future__ import annotations

from toolkit.testing.clauses_models import ModelClauses
from toolkit.testing.clauses_state import StateClauses
from toolkit.testing.clauses_training import TrainingClauses


class TechniqueContract(ModelClauses, StateClauses, TrainingClauses):
    """Inherit, set `technique` to the name of the entry point, and let pytest collect the tests.

    `params` is what a recipe would say; `finetune` is the stage's training, left out after techniques after which
    nothing can be trained. Where the toys do not suit the technique, narrow `toys` (names in `TOY_MODELS`), and
    override `make_model` and `make_data`. Every message says what the author has to change.
    """
