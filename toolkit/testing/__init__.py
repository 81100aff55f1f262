"""Tools to test a plugin: toy models and data, the contracts, and recipes as tests.

Names are imported on first use, because pytest imports this package in projects that do not use torch, too. The
fixtures are in `toolkit.testing.plugin`, which pytest loads through an entry point.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.testing.checking import Verdict, check_contract
    from toolkit.testing.contract import TechniqueContract
    from toolkit.testing.observer_contract import ObserverContract
    from toolkit.testing.outcome import Outcome, run_text
    from toolkit.testing.runtime_contract import RuntimeContract
    from toolkit.testing.toys import (
        TOY_MODELS,
        TiedToy,
        toy_cnn,
        toy_data,
        toy_lstm,
        toy_mlp,
        toy_outputs,
        toy_tied,
        toy_transformer,
    )

_HOME = {
    "ObserverContract": "observer_contract",
    "Outcome": "outcome",
    "RuntimeContract": "runtime_contract",
    "TOY_MODELS": "toys",
    "TechniqueContract": "contract",
    "TiedToy": "toys",
    "Verdict": "checking",
    "check_contract": "checking",
    "run_text": "outcome",
    "toy_cnn": "toys",
    "toy_data": "toys",
    "toy_lstm": "toys",
    "toy_mlp": "toys",
    "toy_outputs": "toys",
    "toy_tied": "toys",
    "toy_transformer": "toys",
}

__all__ = [
    "TOY_MODELS",
    "ObserverContract",
    "Outcome",
    "RuntimeContract",
    "TechniqueContract",
    "TiedToy",
    "Verdict",
    "check_contract",
    "run_text",
    "toy_cnn",
    "toy_data",
    "toy_lstm",
    "toy_mlp",
    "toy_outputs",
    "toy_tied",
    "toy_transformer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'toolkit.testing' has no attribute '{name}'")
    return getattr(import_module(f"toolkit.testing.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
