"""The contract of techniques, as tests to inherit. The runner, the report and other techniques rely on it."""

from __future__ import annotations

from toolkit.testing.clauses_models import ModelClauses
from toolkit.testing.clauses_state import StateClauses
from toolkit.testing.clauses_training import TrainingClauses


class TechniqueContract(ModelClauses, StateClauses, TrainingClauses):
    """Tests of one technique: inherit from this class, and set `technique` to the name of the entry point.

    `params` are the params of a recipe. `finetune` is the training of the stage; it is skipped if the result of the
    technique cannot be trained. If the toys do not suit the technique, list fewer of them in `toys` (names in
    `TOY_MODELS`), and override `make_model` and `make_data`. Every failure says what to change in the technique.
    """
