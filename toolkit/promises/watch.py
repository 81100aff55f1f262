"""The watch over a stage: after each hook it checks guarded models, the shape of the outputs, and promises."""

from __future__ import annotations

from torch import nn

from toolkit import masks
from toolkit.cutting import take_cuts
from toolkit.data.shapes import logits_shape
from toolkit.data.splits import Data
from toolkit.errors import InputError, TechniqueError
from toolkit.promises import Promises, kinds_of
from toolkit.promises.breaches import Breaches, OnBreach
from toolkit.promises.examine import examine
from toolkit.promises.fingerprint import Fingerprint, changes, fingerprint
from toolkit.promises.trainable import frozen, trainable_weights
from toolkit.recipe.read import PluginUse, Stage
from toolkit.rows import Note


class Watch:
    """Checks on one stage while it runs; a breach is a `TechniqueError`, or with `on_breach` "warn" a note.

    Args:
        stage: the stage, whose techniques errors name.
        incoming: model that the stage starts from.
        reference: frozen baseline.
        data: data of the run; two of its samples show the shape of the outputs.
        promises: promises of earlier stages, None for those that `incoming` shows.
        trained_by: later stage that trains the result, None if there is none.
        on_breach: "stop" or "warn".
    """

    def __init__(
        self,
        stage: Stage,
        incoming: nn.Module,
        reference: nn.Module,
        data: Data,
        *,
        promises: Promises | None = None,
        trained_by: Stage | None = None,
        on_breach: OnBreach = "stop",
    ) -> None:
        self.stage, self.data, self.trained_by = stage, data, trained_by
        self._breaches = Breaches(stage.label, on_breach)
        self._shape = self._shape_of(incoming, stage.technique_names)
        self.promises = promises if promises is not None else Promises().extended_by(incoming, "an earlier stage")
        self._trainable: dict[str, int] | None = trainable_weights(incoming)
        self._is_intact, self._blamed = True, stage.technique_names
        self._guarded: dict[str, tuple[nn.Module, Fingerprint]] = {}
        self._guard("the reference", reference)
        self._guard(f"the stage's input model (row {stage.start})", incoming)

    def after_hook(self, who: str, when: str) -> None:
        """Check that the hook left the guarded models unchanged."""
        for name, (model, before) in list(self._guarded.items()):
            changed = list(changes(before, fingerprint(model)))
            if changed:
                self._guard(name, model)
                remedy = "change the model that optimize receives, or a toolkit.masks.clone"
                self._breaches.add(f"{who} changed {name} {when} at", changed, remedy)

    def after_optimize(self, use: PluginUse, model: nn.Module) -> None:
        """Check the promises of earlier stages and techniques; they end if the technique replaces the model."""
        who = str(use.plugin)
        self.after_hook(who, "in optimize")
        self._check_shape(f"{who} must return a model with", model)
        if use.params.replaces_model:
            self._breaches.end("another model replaced this one", self.promises)
            self.promises, self._trainable = Promises(), None
        self._follow_cuts(model)
        self._check_promises(who, model)
        self.promises = self.promises.extended_by(model, self.stage.label)

    def after_training(self, model: nn.Module) -> None:
        """Check the guarded models and the outputs; promises are checked at the end."""
        self.after_hook(self.stage.technique_names, "while training")
        self._check_shape(f"{self.stage.technique_names} must leave a model with", model)
        if any(use.plugin.implements("finish") for use in self.stage.uses):
            self._is_intact = self._keeps_promises(model)

    def after_finish(self, use: PluginUse, model: nn.Module) -> None:
        """Check the guarded models and the outputs, and note whether this technique broke a promise."""
        self.after_hook(str(use.plugin), "in finish")
        self._check_shape(f"{use.plugin} must return a model with", model)
        self._follow_cuts(model)
        if self._is_intact and not self._keeps_promises(model):
            self._is_intact, self._blamed = False, str(use.plugin)

    def at_end(self, model: nn.Module) -> None:
        """Check the promises of earlier stages; the stage may have moved its own zeros while it trained."""
        self.promises = self._binding_promises(model)
        self._check_promises(self._blamed, model)
        self.promises = self.promises.extended_by(model, self.stage.label)
        self._check_trainable(self._blamed, model)

    def before_measure(self, model: nn.Module) -> None:
        """Guard the result too."""
        for name, (guarded, _) in list(self._guarded.items()):
            self._guard(name, guarded)
        self._guard("its own result", model)

    def notes(self) -> dict[str, Note]:
        """Return the breaches as `promises` and the ended promises as `ended`."""
        return self._breaches.notes()

    def _guard(self, name: str, model: nn.Module) -> None:
        self._guarded[name] = model, fingerprint(model)

    def _shape_of(self, model: nn.Module, who: str) -> tuple[int, ...]:
        try:
            return logits_shape(model, self.data)
        except InputError as error:
            raise TechniqueError(f"the model that {who} returned {error}") from error

    def _check_shape(self, duty: str, model: nn.Module) -> None:
        """Run the model on two samples, which also initializes lazy layers."""
        before, self._shape = self._shape, self._shape_of(model, self.stage.technique_names)
        if self._shape != before:
            self._breaches.add(f"{duty} outputs of shape {before} per sample, found {self._shape}")

    def _follow_cuts(self, model: nn.Module) -> None:
        """Look for promised zeros where they are, now that the hook has cut tensors of the model."""
        cuts = take_cuts(model)
        if cuts:
            self.promises = self.promises.under(self.promises.prefix_in(model)).along(cuts)

    def _check_promises(self, who: str, model: nn.Module) -> None:
        result = examine(self.promises, model)
        self.promises = result.remaining
        self._breaches.end("the layer was removed or its shape changed", result.ended)
        for deed, broken in result.broken.items():
            self._breaches.add(f"{who} {deed}", broken)

    def _binding_promises(self, model: nn.Module) -> Promises:
        shown = [*masks.current(model), *(path for path, kind in kinds_of(model).items() if kind.replaces)]
        return self.promises.without(self.stage.label, shown if len(self.stage.uses) > 1 else None)

    def _keeps_promises(self, model: nn.Module) -> bool:
        is_frozen = self.trained_by is not None and frozen(self._trainable, model)
        return not examine(self._binding_promises(model), model).broken and not is_frozen

    def _check_trainable(self, who: str, model: nn.Module) -> None:
        layers = frozen(self._trainable, model)
        if self.trained_by is not None and layers:
            self._breaches.add(f"{who} froze layers that {self.trained_by.label} trains,", layers)
