"""The contract of `toolkit.testing`, kept by every installed technique."""

from typing import Any, ClassVar

import pytest

from toolkit.techniques import installed
from toolkit.testing import TechniqueContract


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
    finetune = None


class TestTorchQuantization(TechniqueContract):
    technique = "quantization"
    params: ClassVar[dict[str, Any]] = {"engine": "torch"}
    finetune = None


@pytest.mark.parametrize("name", [plugin.name for plugin in installed()])
def test_no_installed_technique_is_left_out(name):
    tested = {subclass.technique for subclass in TechniqueContract.__subclasses__()}
    assert name in tested
