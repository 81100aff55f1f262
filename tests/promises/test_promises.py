"""What a stage achieved is checked after every later one: techniques that break it, and chains that do not."""

import copy

import pytest
import torch
from torch import nn

import toolkit
from toolkit import masks
from toolkit.errors import TechniqueError
from toolkit.promises import Promises
from toolkit.promises.examine import examine
from toolkit.promises.fingerprint import changes, fingerprint
from toolkit.recipe.read import parse_recipe

HEAD = """
name = "toy"
{key}
[model]
source = "toolkit.testing:toy_mlp"
training = {{ epochs = 1, lr = 1e-2 }}
[data]
source = "toolkit.testing:toy_data"
batch_size = 64
[measure]
budget = 0.1
"""
PRUNE = '[[stages]]\ntechnique = "pruning"\nparams = { scope = "layer" }\n'
QUANTIZE = '[[stages]]\ntechnique = "quantization"\nparams = { arithmetic = "int8" }\n'
TRAIN = '[[stages]]\nname = "recovery"\ntechnique = "distillation"\nfinetune = { epochs = 1, weight_decay = 0.1 }\n'
STUDENT = (
    '[[stages]]\ntechnique = "distillation"\nfinetune = { epochs = 1 }\n'
    'params = { student = { source = "toolkit.testing:toy_mlp" } }\n'
)


def stage(technique, **keys):
    return "\n".join(["[[stages]]", f'technique = "{technique}"', *(f"{key} = {value}" for key, value in keys.items())])


@pytest.fixture
def run(tmp_path):
    def run(stages, key=""):
        recipe = parse_recipe(HEAD.format(key=key) + stages, "toy.toml", tmp_path)
        return toolkit.run(recipe, output=tmp_path / "run", overwrite=True)

    return run


@pytest.fixture
def stops(run):
    """Runs a recipe that breaks a promise, and returns the sentence."""

    def stops(stages):
        with pytest.raises(TechniqueError) as caught:
            run(stages)
        return str(caught.value)

    return stops


@pytest.fixture
def warns(run):
    """Runs the same to its end, and returns the note of the row that breaks it; no other row has one."""

    def warns(stages):
        report = run(stages, key='promises = "warn"')
        notes = [row["promises"] for row in report.rows if "promises" in row.values]
        assert len(notes) == 1
        return notes[0]

    return warns


@pytest.fixture
def keeps(run):
    """Runs a chain that breaks nothing, and returns its report."""

    def keeps(stages):
        report = run(stages)
        assert not any("promises" in row.values for row in report.rows)
        return report

    return keeps


def optimizing(change):
    """A hook that changes the model in place, or returns another one."""

    @toolkit.hookimpl
    def optimize(model):
        changed = change(model)
        return changed if isinstance(changed, nn.Module) else model

    return {"optimize": optimize}


def refilled(model):
    model = masks.folded(model)
    for layer in (model[1], model[3]):
        layer.weight.data[layer.weight == 0] = 1.0
    return model


def dense(model, refill=False):
    """Float layers for the int8 ones, with the weights that these stand for."""
    for place, layer in enumerate(model):
        if hasattr(layer, "dense_weight"):
            weight = layer.dense_weight()
            model[place] = linear = nn.Linear(*reversed(weight.shape))
            linear.weight.data.copy_(weight.masked_fill(weight == 0, 1.0) if refill else weight)
            linear.bias.data.copy_(layer.bias)
    return model


def idle(model):
    pass


REFILL = (
    "'refill' (tests 1.0) refilled zeros that stage 1 (pruning) made in '1.weight': "
    "1024 zeros before, 0 zeros after (and 1 more)"
)


def test_refilled_zeros_stop_the_run(install, stops):
    install("refill", **optimizing(refilled))
    assert stops(PRUNE + stage("refill")) == f"stage 2 (refill): {REFILL}"


def test_refilled_zeros_are_noted_once_and_not_blamed_on_later_stages(install, warns):
    install("refill", **optimizing(refilled))
    install("idle", **optimizing(idle))
    note = warns(PRUNE + stage("refill") + "\n" + stage("idle"))
    assert note.text == REFILL
    assert list(note.table) == [
        {"layer": "1.weight", "before": "1024 zeros", "after": "0 zeros"},
        {"layer": "3.weight", "before": "64 zeros", "after": "0 zeros"},
    ]


def test_zeros_that_are_left_after_a_warning_are_still_promised(install, run):
    def refill_one(model):
        model = masks.folded(model)
        index = (model[1].weight == 0).nonzero()[0]
        model[1].weight.data[tuple(index)] = 1.0
        return model

    install("one", **optimizing(refill_one))
    report = run(PRUNE + stage("one", name='"first"') + "\n" + stage("one", name='"second"'), key='promises = "warn"')
    assert ": 1024 zeros before, 1023 zeros after" in report.row("first")["promises"].text
    assert ": 1023 zeros before, 1022 zeros after" in report.row("second")["promises"].text


def test_training_a_weight_whose_mask_was_taken_away_is_a_breach(install, stops):
    install("unmask", **optimizing(masks.folded))
    sentence = stops(PRUNE + stage("unmask", finetune="{ epochs = 1 }"))
    assert sentence.startswith("stage 2 (unmask): 'unmask' (tests 1.0) refilled zeros that stage 1 (pruning) made in")


def test_an_int8_layer_made_float_again(install, stops, warns):
    install("undo", **optimizing(dense))
    sentence = (
        "'undo' (tests 1.0) undid the work of stage 1 (quantization) in '1': "
        "Int8Linear of float32 and int8 before, Linear of float32 after (and 1 more)"
    )
    assert stops(QUANTIZE + stage("undo")) == f"stage 2 (undo): {sentence}"
    assert warns(QUANTIZE + stage("undo") + "\n" + stage("undo", name='"again"')).text == sentence


class Wide(nn.Module):
    """Stands for a linear layer, in float64."""

    replaces = "Linear"

    def __init__(self, weight, bias):
        super().__init__()
        self.register_buffer("weight", weight.double())
        self.register_buffer("bias", bias)

    def dense_weight(self):
        return self.weight.float()

    def forward(self, inputs):
        return nn.functional.linear(inputs, self.weight.float(), self.bias)


def test_another_representation_must_not_be_wider(install, stops, keeps):
    def widened(model):
        model[1] = Wide(model[1].dense_weight(), model[1].bias)

    def halved(model):
        model[1].scale = model[1].scale.bfloat16()

    install("widen", **optimizing(widened))
    install("halve", **optimizing(halved))
    assert stops(QUANTIZE + stage("widen")) == (
        "stage 2 (widen): 'widen' (tests 1.0) undid the work of stage 1 (quantization) in '1': "
        "Int8Linear of float32 and int8 before, Wide of float32 and float64 after"
    )
    keeps(QUANTIZE + stage("halve"))


def test_prune_quantize_then_dequantize_and_refill(install, stops, warns):
    install("undo", **optimizing(lambda model: dense(model, refill=True)))
    chain = PRUNE + QUANTIZE + stage("undo")
    kinds = "undid the work of stage 2 (quantization) in '1'"
    assert stops(chain).startswith(f"stage 3 (undo): 'undo' (tests 1.0) {kinds}")
    note = warns(chain + "\n" + stage("undo", name='"again"'))
    assert kinds in note.text
    assert "refilled zeros that stage 1 (pruning) made in '1.weight': 1024 zeros before, 0 zeros after" in note.text
    assert {row["layer"] for row in note.table} == {"1", "3", "1.weight", "3.weight"}


def test_zeros_that_only_integers_keep_are_promised(install, stops):
    def refill(model):
        model[1].weight[model[1].weight == 0] = 1

    install("refill", **optimizing(refill))
    sentence = stops(PRUNE + QUANTIZE + stage("refill"))
    assert sentence == (
        "stage 3 (refill): 'refill' (tests 1.0) refilled zeros that stage 1 (pruning) made in '1.weight': "
        "1024 zeros before, 0 zeros after"
    )


@pytest.mark.parametrize("hook", ["prepare", "optimize", "finetune", "measure", "training"])
@pytest.mark.parametrize("victim", ["reference", "incoming"])
@pytest.mark.smoke
def test_what_no_hook_may_change(install, stops, warns, hook, victim):
    held = []

    @toolkit.hookimpl
    def prepare(model, reference):
        held[:] = [{"reference": reference, "incoming": model}[victim]]
        if hook == "prepare":
            held[0][1].weight.data.fill_(1.0)

    @toolkit.hookimpl
    def optimize(model):
        if hook == "optimize":
            held[0][1].weight.data.fill_(1.0)
        return model

    @toolkit.hookimpl
    def finetune(training):
        if hook == "finetune":
            held[0][1].weight.data.fill_(1.0)
        if hook == "training":
            return training.using(after_step=lambda step, steps: held[0][1].weight.data.fill_(1.0))
        return training

    @toolkit.hookimpl
    def measure(model):
        if hook == "measure":
            held[0][1].weight.data.fill_(1.0)

    install("edit", prepare=prepare, optimize=optimize, finetune=finetune, measure=measure)
    install("idle", **optimizing(idle))
    chain = stage("idle") + "\n" + stage("edit", finetune="{ epochs = 1 }")
    name = {"reference": "the reference", "incoming": "the stage's input model (row 1)"}[victim]
    when = "while training" if hook == "training" else f"in {hook}"
    sentence = stops(chain)
    assert sentence.startswith(f"stage 2 (edit): 'edit' (tests 1.0) changed {name} {when} at '1.weight': ")
    assert "float32 (32, 64) of mean " in sentence
    assert sentence.endswith("of mean 1 after; change the model that optimize receives, or a toolkit.masks.clone")
    assert warns(chain + "\n" + stage("idle", name='"later"')).text in sentence


def test_one_technique_of_several_is_blamed_for_what_it_did(install, stops):
    @toolkit.hookimpl
    def prepare(reference):
        reference[1].weight.requires_grad_(True)

    install("edit", prepare=prepare)
    install("refill", **optimizing(refilled))
    install("idle", **optimizing(idle))
    sentence = stops(stage("idle", **{"with": '[{ technique = "edit" }]'}))
    assert sentence.startswith(
        "stage 1 (idle): 'edit' (tests 1.0) changed the reference in prepare at '1.weight': froz"
    )
    sentence = stops(PRUNE + stage("idle", **{"with": '[{ technique = "refill" }]'}))
    assert sentence == f"stage 2 (idle): {REFILL}"
    # Of techniques that train together, it is not known which one did it.
    install("unmask", **optimizing(masks.folded))
    sentence = stops(PRUNE + stage("idle", **{"with": '[{ technique = "unmask" }]', "finetune": "{ epochs = 1 }"}))
    assert "'idle' (tests 1.0) with 'unmask' (tests 1.0) refilled zeros" in sentence


def test_a_technique_undoes_another_one_of_its_own_stage(install, stops):
    install("refill", **optimizing(refilled))
    sentence = stops(PRUNE + 'with = [{ technique = "refill" }]')
    assert sentence == f"stage 1 (pruning): {REFILL}"


def test_a_result_that_shares_weights_with_the_incoming_model_changes_it_in_training(install, stops):
    held = []

    @toolkit.hookimpl
    def prepare(model):
        held[:] = [model]

    @toolkit.hookimpl
    def optimize(model):
        model[1] = held[0][1]
        return model

    install("share", prepare=prepare, optimize=optimize)
    sentence = "changed the stage's input model (row 0) while training at '1"
    assert sentence in stops(stage("share", finetune="{ epochs = 1 }"))


@pytest.mark.parametrize("edit", ["eval", "freeze", "layer", "swap"])
def test_changes_of_a_model_that_are_no_new_values(install, stops, edit):
    def change(model):
        if edit == "eval":
            model.train()
        elif edit == "freeze":
            model.requires_grad_(False)
        elif edit == "layer":
            model[2] = nn.Tanh().eval()
        else:  # the same values elsewhere, and so the same mean
            model[1].weight.data = model[1].weight.data.flip(0)

    @toolkit.hookimpl
    def prepare(model):
        change(model)

    install("edit", prepare=prepare)
    found = {
        "eval": "the whole model: Sequential in eval mode before, Sequential in train mode after",
        "freeze": "'1.weight': float32 (32, 64) of mean",
        "layer": "'2': ReLU in eval mode before, Tanh in eval mode after",
        "swap": "before, the same with different values after",
    }
    sentence = stops(stage("edit"))
    assert "changed the stage's input model (row 0) in prepare at" in sentence
    assert found[edit] in sentence


def test_outputs_of_another_shape(install, stops, warns):
    def widen(model):
        model[3] = nn.Linear(32, 7)

    install("wider", **optimizing(widen))
    install("idle", **optimizing(idle))
    sentence = "'wider' (tests 1.0) must return a model with outputs of shape (4,) per sample, found (7,)"
    chain = stage("idle", **{"with": '[{ technique = "wider" }]'})
    assert stops(chain) == f"stage 1 (idle): {sentence}"
    assert warns(chain + "\n" + stage("idle", name='"later"')).text == sentence


def test_outputs_that_change_their_shape_in_training(install, stops):
    @toolkit.hookimpl
    def finetune(model, training):
        def widen(step, steps):
            if step == steps:
                model[3] = nn.Linear(32, 7)

        return training.using(after_step=widen)

    install("wider", finetune=finetune)
    sentence = stops(stage("wider", finetune="{ epochs = 1 }"))
    assert sentence == (
        "stage 1 (wider): 'wider' (tests 1.0) must leave a model with outputs of shape (4,) per sample, found (7,)"
    )


def freeze_first(model):
    model[1].requires_grad_(False)


def test_weights_that_are_frozen_where_a_later_stage_trains_them(install, stops, warns, keeps):
    install("freeze", **optimizing(freeze_first))
    install("idle", **optimizing(idle))
    sentence = (
        "'freeze' (tests 1.0) froze layers that stage 3 (recovery) trains, "
        "'1': 2080 trainable weights before, none after"
    )
    chain = stage("freeze") + "\n" + stage("idle") + "\n" + TRAIN
    assert stops(chain) == f"stage 1 (freeze): {sentence}"
    assert warns(chain).text == sentence
    keeps(stage("freeze") + "\n" + stage("idle"))
    keeps(stage("freeze") + "\n" + stage("idle", **{"from": '"baseline"'}) + "\n" + TRAIN)
    keeps(stage("freeze") + "\n" + STUDENT)
    keeps(stage("freeze", finetune="{ epochs = 1 }"))


def test_a_model_that_is_frozen_altogether(install, stops):
    install("freeze", **optimizing(lambda model: model.requires_grad_(False)))
    assert stops(stage("freeze") + "\n" + TRAIN) == (
        "stage 1 (freeze): 'freeze' (tests 1.0) froze layers that stage 2 (recovery) trains, "
        "the whole model: 2212 trainable weights before, none after"
    )


class Adapted(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(64, 2, bias=False), nn.Linear(2, 32, bias=False)

    def forward(self, inputs):
        return self.layer(inputs) + self.up(self.down(inputs))


def test_adapters_over_a_frozen_layer_are_no_breach(install, keeps):
    def adapt(model):
        model[1] = Adapted(model[1])

    install("adapt", **optimizing(adapt))
    keeps(stage("adapt") + "\n" + TRAIN)


def test_promises_follow_the_chain_of_from(install, stops, keeps):
    install("undo", **optimizing(dense))
    install("refill", **optimizing(refilled))
    install("idle", **optimizing(idle))
    other = stage("idle", **{"from": '"baseline"'}) + "\n"
    # From the baseline there is nothing to keep, whatever was done on the way beside it.
    keeps(PRUNE + stage("refill", **{"from": '"baseline"'}))
    keeps(QUANTIZE + other + stage("undo"))
    sentence = stops(PRUNE + other + stage("refill", **{"from": '"pruning"'}))
    assert sentence == f"stage 3 (refill): {REFILL}"


def test_chains_that_keep_their_promises(keeps):
    report = keeps(PRUNE + TRAIN + QUANTIZE)
    assert report.final["sparsity"] > 0.4
    more = PRUNE.replace("[[stages]]", '[[stages]]\nname = "more"').replace("scope", "sparsity = 0.8, scope")
    assert keeps(PRUNE + more).final["sparsity"] > 0.7
    gradual = (
        stage("pruning", params='{ schedule = "gradual" }', **{"with": '[{ technique = "distillation" }]'})
        + "\nfinetune = { epochs = 1 }\n"
    )
    keeps(gradual + QUANTIZE)
    some = stage("quantization", params='{ layers = ["1"], arithmetic = "int8" }') + "\n"
    assert keeps(some + PRUNE.replace("scope", 'layers = ["3"], scope')).final["pruning.sparsity"] == 0.5
    keeps(stage("pruning", **{"with": '[{ technique = "quantization" }]'}))


def test_a_technique_that_moves_its_own_zeros_while_it_trains_is_not_blamed(install, keeps):
    @toolkit.hookimpl
    def optimize(model):
        masks.apply(model, {"1.weight": torch.arange(2048).view(32, 64) % 2 == 0})
        return model

    @toolkit.hookimpl
    def finetune(model, training):
        def regrow(step, steps):
            model[1].parametrizations.weight[0].mask.copy_(torch.arange(2048).view(32, 64) % 2 == 1)

        return training.using(after_step=regrow)

    install("sparse", optimize=optimize, finetune=finetune)
    install("idle", **optimizing(idle))
    keeps(stage("sparse", finetune="{ epochs = 1 }"))
    keeps(stage("sparse", finetune="{ epochs = 1 }", **{"with": '[{ technique = "idle" }]'}))


def test_a_new_model_ends_all_promises_and_says_which(install, keeps):
    install("refill", **optimizing(refilled))
    report = keeps(PRUNE + QUANTIZE + STUDENT + stage("refill"))
    note = report.row("distillation")["ended"]
    assert note.text == (
        "another model replaced this one: earlier promises end here ("
        "zeros in 2 weights, Int8Linear of float32 and int8 in 2 layers)"
    )
    assert list(note.table) == [
        {"layer": "1", "ended": "Int8Linear of float32 and int8"},
        {"layer": "3", "ended": "Int8Linear of float32 and int8"},
        {"layer": "1.weight", "ended": "1024 zeros"},
        {"layer": "3.weight", "ended": "64 zeros"},
    ]
    assert not any("ended" in row.values for row in report.rows if row.stage != "distillation")


def test_a_layer_that_is_taken_out_is_said(install, keeps):
    def shrink(model):
        hidden = masks.folded(model)
        hidden[1], hidden[3] = nn.Linear(64, 16), nn.Linear(16, 4)
        return hidden

    install("shrink", **optimizing(shrink))
    note = keeps(PRUNE + stage("shrink")).final["ended"]
    assert note.text == "the layer was removed or its shape changed: earlier promises end here (zeros in 2 weights)"


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs)


def test_a_model_inside_another_one_keeps_its_promises(install, keeps, stops):
    install("wrap", **optimizing(Wrapped))
    install("refill", **optimizing(lambda model: Wrapped(refilled(model))))
    install("undo", **optimizing(lambda model: Wrapped(dense(model.inner))))
    assert "ended" not in keeps(PRUNE + stage("wrap")).final.values
    assert "made in 'inner.1.weight': 1024 zeros before" in stops(PRUNE + stage("refill"))
    assert "(quantization) in 'inner.1': Int8Linear" in stops(QUANTIZE + stage("wrap") + "\n" + stage("undo"))


def test_examining_leaves_the_promises_as_they_were():
    model = nn.Sequential(nn.Linear(4, 4))
    masks.apply(model, {"0.weight": torch.eye(4) == 1})
    promises = Promises().extended_by(model, "stage 1 (a)")
    assert int(promises.zeros["0.weight"]["stage 1 (a)"].sum()) == 12
    plain = masks.folded(model)
    plain[0].weight.data.fill_(1.0)
    result = examine(promises, plain)
    assert not result.remaining
    assert promises.zeros["0.weight"]["stage 1 (a)"].sum() == 12
    assert examine(promises, model).remaining.zeros.keys() == {"0.weight"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64])
def test_a_fingerprint_shows_one_changed_bit_of_any_dtype(dtype):
    module = nn.Module()
    module.register_buffer("tensor", torch.zeros(3, 5).to(dtype).t())
    module.register_buffer("nothing", torch.zeros(0, 2))
    module.register_buffer("scalar", torch.tensor(1.0))
    before = fingerprint(module)
    assert not list(changes(before, fingerprint(copy.deepcopy(module))))
    module.tensor.view(-1 if module.tensor.is_contiguous() else module.tensor.shape)[4, 2] = 1
    assert [change.layer for change in changes(before, fingerprint(module))] == ["tensor"]


def test_a_fingerprint_of_conjugates_and_negatives_is_that_of_their_values():
    lazy, plain = nn.Module(), nn.Module()
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    lazy.register_buffer("conjugates", numbers.conj())
    lazy.register_buffer("negatives", numbers.conj().imag)
    plain.register_buffer("conjugates", torch.tensor([1 - 2j, 3 + 4j]))
    plain.register_buffer("negatives", torch.tensor([-2.0, 4.0]))
    assert not list(changes(fingerprint(lazy), fingerprint(plain)))


def test_promises_is_stop_or_warn(run):
    with pytest.raises(toolkit.RecipeError, match="promises: must be 'stop' or 'warn', found \"ignore\""):
        run(PRUNE, key='promises = "ignore"')
