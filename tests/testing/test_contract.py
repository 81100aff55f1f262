"""The contracts of `toolkit.testing`, kept by every installed plugin; more toys and other params in the slow tests."""

from importlib.util import find_spec
from typing import Any, ClassVar

import pytest
from few_toys import FewToys

import toolkit
from toolkit.errors import TechniqueError
from toolkit.hooks.loading import installed, load
from toolkit.testing import ObserverContract, RuntimeContract, TechniqueContract, toy_data
from toolkit.testing.base import same, state_of


class TestBiasCorrection(FewToys, TechniqueContract):
    technique = "bias-correction"


@pytest.mark.slow
class TestBiasCorrectionAlone(TechniqueContract):
    technique = "bias-correction"
    params: ClassVar[dict[str, Any]] = {"classes": [3, 1]}
    finetune = None


class TestChannels(FewToys, TechniqueContract):
    technique = "channels"
    params: ClassVar[dict[str, Any]] = {"amount": 0.3, "round_to": 1}


@pytest.mark.slow
class TestChannelsInSteps(TechniqueContract):
    technique = "channels"
    params: ClassVar[dict[str, Any]] = {"amount": 0.4, "round_to": 1, "steps": 2, "criterion": "taylor"}


@pytest.mark.slow
class TestChannelsByTime(TechniqueContract):
    technique = "channels"
    params: ClassVar[dict[str, Any]] = {"amount": 0.3, "round_to": 1, "steps": 2, "of": "latency_ms"}


class TestCodebook(FewToys, TechniqueContract):
    technique = "codebook"


@pytest.mark.slow
class TestCodebookWithinABudget(TechniqueContract):
    technique = "codebook"
    params: ClassVar[dict[str, Any]] = {"budget_bytes": 100_000, "bits": 3, "values": "float32"}


class TestDistillation(FewToys, TechniqueContract):
    technique = "distillation"
    params: ClassVar[dict[str, Any]] = {"student": {"source": "toolkit.testing:toy_mlp"}}


@pytest.mark.slow
class TestDistillationWithoutStudent(TechniqueContract):
    technique = "distillation"
    params: ClassVar[dict[str, Any]] = {"teacher": "reference"}


@pytest.mark.slow
class TestDistillationWithoutAClass(TechniqueContract):
    technique = "distillation"
    toys = ("cnn", "outputs")
    params: ClassVar[dict[str, Any]] = {"without_classes": [0], "teacher": "reference"}


class TestHints(TechniqueContract):
    technique = "distillation"
    toys = ("cnn", "mlp")  # whose layers these are
    params: ClassVar[dict[str, Any]] = {
        "student": {"source": "toolkit.testing:toy_cnn"},
        "teachers": ["reference", "input"],
        "initialize": True,
        "hints": [
            {"teacher": "0", "student": "3", "of": 2},
            {"teacher": "3", "student": "3", "loss": "attention"},
            {"teacher": "1", "student": "6", "loss": "relational"},
        ],
    }


class TestLowRank(FewToys, TechniqueContract):
    technique = "low-rank"
    params: ClassVar[dict[str, Any]] = {"rank": 0.3}


@pytest.mark.slow
class TestLowRankDataAware(TechniqueContract):
    technique = "low-rank"
    params: ClassVar[dict[str, Any]] = {"amount": 0.2, "data_aware": True, "samples": 64}


class TestPruning(FewToys, TechniqueContract):
    technique = "pruning"
    few = ("mlp", "cnn", "lstm")


@pytest.mark.slow
class TestGradualPruning(TechniqueContract):
    technique = "pruning"
    params: ClassVar[dict[str, Any]] = {"schedule": "gradual", "sparsity": 0.7}


@pytest.mark.slow
class TestMovementPruning(TechniqueContract):
    technique = "pruning"
    params: ClassVar[dict[str, Any]] = {"criterion": "movement", "sparsity": 0.7, "steps_between": 1}


@pytest.mark.slow
class TestGradualPruningByTaylorScores(TechniqueContract):
    technique = "pruning"
    params: ClassVar[dict[str, Any]] = {"criterion": "taylor", "schedule": "gradual", "samples": 64}


@pytest.mark.slow
class TestPruningByWeightsTimesInputs(TechniqueContract):
    technique = "pruning"
    params: ClassVar[dict[str, Any]] = {"criterion": "wanda"}


class TestQuantization(FewToys, TechniqueContract):
    technique = "quantization"
    few = ("mlp", "cnn", "lstm")


@pytest.mark.slow
class TestStaticQuantization(TechniqueContract):
    technique = "quantization"
    params: ClassVar[dict[str, Any]] = {"activations": "static", "max_drop": 100.0}


@pytest.mark.slow
class TestTrainingWithLearnedSteps(TechniqueContract):
    technique = "quantization"
    params: ClassVar[dict[str, Any]] = {"activations": "static", "max_drop": 100.0, "learn_steps": True}
    toys = ("cnn",)


@pytest.mark.slow
class TestTorchQuantization(TechniqueContract):
    technique = "quantization"
    params: ClassVar[dict[str, Any]] = {"engine": "torch"}


class TestRewind(FewToys, TechniqueContract):
    technique = "rewind"


@pytest.mark.slow
class TestRedrawing(TechniqueContract):
    technique = "rewind"
    params: ClassVar[dict[str, Any]] = {"to": "random"}


class TestTensorboard(ObserverContract):
    plugin = "tensorboard"


@pytest.mark.slow
class TestMlflow(ObserverContract):
    plugin = "mlflow"


class TestProfile(ObserverContract):
    plugin = "profile"


@pytest.mark.slow
class TestOnnxruntime(RuntimeContract):
    plugin = "onnxruntime"


@pytest.mark.slow
class TestAoti(RuntimeContract):
    plugin = "aoti"


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")
class TestOpenvino(FewToys, RuntimeContract):
    plugin = "openvino"
    few = ("mlp",)


class TestPt2(FewToys, RuntimeContract):
    plugin = "pt2"
    few = ("mlp",)


def is_technique(name):
    try:
        return bool(load(name))
    except TechniqueError:
        return False


@pytest.mark.parametrize("name", [plugin.name for plugin in installed()])
@pytest.mark.smoke
def test_no_installed_plugin_is_left_out(name):
    if is_technique(name):
        assert name in {subclass.technique for subclass in TechniqueContract.__subclasses__()}
    else:
        others = [*ObserverContract.__subclasses__(), *RuntimeContract.__subclasses__()]
        assert name in {subclass.plugin for subclass in others}


class OwnData(TestPruning):
    """Not collected: a contract with data of its own."""

    def make_data(self):
        return toy_data(noise=5.0)


def test_each_clause_has_a_trained_model_of_its_own():
    contract = TestPruning()
    first, second = contract._trained(), contract._trained()
    assert same(state_of(first), state_of(second))
    first[0].weight.data.zero_()
    assert same(state_of(second), state_of(contract._trained()))
    for other in (contract._trained(seed=1), OwnData()._trained()):
        assert not same(state_of(second), state_of(other))


class Forgetful(TechniqueContract):
    """Not collected: a technique whose loss remembers the step outside of a module."""

    technique = "forgetful"


def test_a_loss_that_an_interruption_would_change_is_found(install, tmp_path):
    @toolkit.hookimpl
    def finetune(training):
        taken = []

        def loss(outputs, batch):
            taken.append(1)
            return training.loss(outputs, batch) * len(taken)

        return training.using(loss=loss)

    install("forgetful", finetune=finetune)
    with pytest.raises(AssertionError, match="keep the state of losses and functions in modules"):
        Forgetful().test_an_interrupted_training_goes_on_to_the_same_result(tmp_path)
