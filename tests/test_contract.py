"""The contracts of `toolkit.testing`, kept by every installed plugin."""

from typing import Any, ClassVar

import pytest

from toolkit.errors import TechniqueError
from toolkit.techniques import installed, load
from toolkit.testing import ObserverContract, TechniqueContract


class TestDistillation(TechniqueContract):
    technique = "distillation"
    params: ClassVar[dict[str, Any]] = {"student": {"source": "toolkit.testing:toy_mlp"}}


class TestDistillationWithoutStudent(TechniqueContract):
    technique = "distillation"
    params: ClassVar[dict[str, Any]] = {"teacher": "reference"}


class TestPruning(TechniqueContract):
    technique = "pruning"


class TestGradualPruning(TechniqueContract):
    technique = "pruning"
    params: ClassVar[dict[str, Any]] = {"schedule": "gradual", "sparsity": 0.7}


class TestQuantization(TechniqueContract):
    technique = "quantization"


class TestTorchQuantization(TechniqueContract):
    technique = "quantization"
    params: ClassVar[dict[str, Any]] = {"engine": "torch"}


class TestTensorboard(ObserverContract):
    plugin = "tensorboard"


class TestMlflow(ObserverContract):
    plugin = "mlflow"


class TestProfile(ObserverContract):
    plugin = "profile"


def is_technique(name):
    try:
        return bool(load(name))
    except TechniqueError:
        return False


@pytest.mark.parametrize("name", [plugin.name for plugin in installed()])
def test_no_installed_plugin_is_left_out(name):
    if is_technique(name):
        assert name in {subclass.technique for subclass in TechniqueContract.__subclasses__()}
    else:
        assert name in {subclass.plugin for subclass in ObserverContract.__subclasses__()}
