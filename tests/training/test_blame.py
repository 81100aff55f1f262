"""An error in training names the technique, the slot and what was wrong: installed plugins, three in one stage."""

import pytest

HEAD = """
import contextlib
import torch
from torch import nn
import toolkit
"""
INNOCENT = f"""{HEAD}
@toolkit.hookimpl
def finetune(model, training):
    path = [name for name, _ in model.named_parameters()][-2]
    return training.using(
        loss=lambda outputs, batch: 1.0 * training.loss(outputs, batch),
        after_step=lambda step, steps: None,
        around_step=lambda model: contextlib.nullcontext(),
        weights={{path: lambda weight: weight * 1.0}},
        trained_along=nn.Linear(1, 1),
    )
"""
STAGE = """
[model]
source = "toolkit.testing:toy_cnn"
[[stages]]
technique = "before"
with = [{ technique = "bad" }, { technique = "behind" }]
finetune = { epochs = 1 }
"""
WHO = "stage 1 (before): 'bad' (bad-plugin 1.0)"

# in training: what `finetune` of the bad technique returns, and the end of the sentence
IN_TRAINING = {
    "loss raises": ("loss=lambda outputs, batch: 1 / 0", " failed in `loss` with ZeroDivisionError: division by zero"),
    "loss is a vector": (
        "loss=lambda outputs, batch: training.loss(outputs, batch).expand(2)",
        ": `loss` must return one number, found a tensor of shape (2,); return its mean",
    ),
    "loss is a float": (
        "loss=lambda outputs, batch: training.loss(outputs, batch).item()",
        ": `loss` must return a tensor, found float",
    ),
    "loss without a gradient": (
        "loss=lambda outputs, batch: training.loss(outputs, batch).detach()",
        ": `loss` must return a tensor with a gradient; compute it from the outputs, without detach() and item()",
    ),
    "loss refuses": (
        "loss=lambda outputs, batch: refuse()",
        " refused in `loss`: the classes must be balanced",
    ),
    "after_step raises": (
        "after_step=lambda step, steps: {}[step]",
        " failed in `after_step` with KeyError: 1",
    ),
    "after_step exits": ("after_step=lambda step, steps: exit(3)", " failed in `after_step` with SystemExit: 3"),
    "around_step raises": ("around_step=lambda model: model.nowhere", " failed in `around_step` with AttributeError: "),
    "around_step returns None": (
        "around_step=lambda model: None",
        ": `around_step` must return a context manager, found NoneType; return one, or nullcontext()",
    ),
    "around_step is a generator": (
        "around_step=generator",
        ": `around_step` must return a context manager, found generator; decorate the function with "
        "contextlib.contextmanager",
    ),
    "context fails at its end": (
        "around_step=contextlib.contextmanager(failing)",
        " failed in `around_step` with RuntimeError: at the end",
    ),
    "hook left": (
        "around_step=leaving(lambda layer: layer.register_forward_hook(lambda *_: None))",
        ": `around_step` left layer '0' changed: a hook, `forward` or a weight; undo the change when the step ends",
    ),
    "forward left": (
        "around_step=leaving(lambda layer: setattr(layer, 'forward', layer.forward))",
        "left layer '0' ch",
    ),
    "weight left": (
        "around_step=leaving(lambda layer: layer._parameters.update(weight=nn.Parameter(layer.weight * 0)))",
        "left layer '0' changed",
    ),
    "data left": (
        "around_step=leaving(lambda layer: setattr(layer.weight, 'data', layer.weight.data * 0))",
        "left layer '0' changed",
    ),
    "weights raise": (
        "weights={'0.weight': lambda weight: weight.reshape(7)}",
        " failed in `weights['0.weight']` with RuntimeError: ",
    ),
    "weights of no layer": ("weights={'0.wieght': abs}", "`weights['0.wieght']` names no weight of the model; did y"),
    "weights of another shape": (
        "weights={'0.weight': lambda weight: weight[:1]}",
        "`weights['0.weight']` must return a ",
    ),
    "a hook on a layer": (
        "around_step=hooked",
        " failed while training with ValueError: in a hook",
    ),
}
# in finetune: what is wrong before anything trains
IN_FINETUNE = {
    "loss takes one": (
        "loss=lambda outputs: 0",
        "`loss` must be a function of (outputs, batch), found one of (outputs)",
    ),
    "after_step takes none": (
        "after_step=lambda: 0",
        "`after_step` must be a function of (step, steps), found one of ()",
    ),
    "around_step is none": ("around_step=3", "`around_step` must be a function of (model), found int"),
    "a tensor for a module": (
        "trained_along=torch.ones(3)",
        "`trained_along` must be an nn.Module or a TrainedAlong, found a tensor; make it a parameter of a module",
    ),
    "samples are a mask": (
        "samples=torch.ones(64).bool()",
        "`samples` must be an int64 tensor of shape (N,), found torch.bool (64,)",
    ),
}
TOOLS = """
def refuse():
    raise toolkit.TechniqueError("the classes must be balanced")

def generator(model):
    yield

def failing(model):
    yield
    raise RuntimeError("at the end")

def leaving(change):
    @contextlib.contextmanager
    def around_step(model):
        change(model[0])
        yield
    return around_step

def in_a_hook(*_):
    raise ValueError("in a hook")

@contextlib.contextmanager
def hooked(model):
    hook = model[0].register_forward_hook(in_a_hook)
    try:
        yield
    finally:
        hook.remove()
"""


@pytest.fixture
def stopped_by(make_plugin, recipe_run):
    """The error of a stage in which the second of three techniques does this."""

    def stopped_by(using):
        make_plugin("before", INNOCENT)
        make_plugin("behind", INNOCENT)
        body = f"@toolkit.hookimpl\ndef finetune(model, training):\n    return training.using({using})\n"
        make_plugin("bad", f"{HEAD}{TOOLS}{body}")
        outcome = recipe_run(STAGE)
        assert outcome.exit_code == 1, outcome.error
        assert "Traceback" in outcome.log
        assert "\n" not in outcome.error
        return outcome.error

    return stopped_by


@pytest.mark.parametrize("case", IN_TRAINING)
def test_an_error_in_training_names_technique_and_slot(stopped_by, case):
    using, sentence = IN_TRAINING[case]
    error = stopped_by(using)
    assert error.startswith(WHO), error
    assert sentence in error
    assert "before-plugin" not in error
    assert "behind-plugin" not in error


@pytest.mark.parametrize("case", IN_FINETUNE)
def test_what_no_slot_takes_is_refused_where_it_is_given(stopped_by, case):
    using, sentence = IN_FINETUNE[case]
    assert stopped_by(using).startswith(f"{WHO} failed in finetune with TypeError: {sentence}")


def test_an_error_of_the_model_is_blamed_on_nobody(make_plugin, recipe_run, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Sequential):\n    def forward(self, inputs):\n"
        "        assert not self.training, 'only in eval mode'\n        return super().forward(inputs)\n"
        "def net():\n    return Net(torch.nn.Flatten(), torch.nn.Linear(64, 4))\n"
    )
    make_plugin("before", INNOCENT)
    outcome = recipe_run(
        '[model]\nsource = "net.py:net"\n[[stages]]\ntechnique = "before"\nfinetune = { epochs = 1 }\n'
    )
    message = (
        "stage 1 (before): training with 'before' (before-plugin 1.0) failed with AssertionError: only in eval mode"
    )
    assert outcome.error.partition("\n")[0] == message  # the rehearsal adds that nothing was trained


def test_techniques_that_do_no_harm_train_together(make_plugin, recipe_run):
    for name in ("before", "bad", "behind"):
        make_plugin(name, INNOCENT)
    assert recipe_run(STAGE).error == ""
