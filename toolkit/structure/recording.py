"""A network's graph as it runs on a batch, where `torch.fx` cannot follow its forward: what was called, and on what.

Sizes are numbers here, so that a size that forward reads cannot be told from one that it states. Control flow may
depend on integers, such as token ids and their masks, and on nothing that is computed in floats.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

READING = frozenset({"__bool__", "item", "tolist", "__int__", "__float__", "__index__"})


class UnrecordableError(Exception):
    """A module whose graph would not be that of other samples; `path` is where it is, and `remedy` what to do."""

    def __init__(self, path: str, problem: str, remedy: str = "exclude it") -> None:
        super().__init__(problem)
        self.path, self.remedy = path, remedy


def record(
    root: nn.Module,
    inputs: list[Tensor],
    is_leaf: Callable[[nn.Module, str], bool],
    is_excluded: Callable[[str], bool],
) -> fx.Graph:
    """Return the graph of what a network calls.

    Args:
        root: called with `inputs`; in eval mode, and not changed.
        inputs: what the network is called with.
        is_leaf: whether a module, at its path in `root`, is called as a whole.
        is_excluded: whether the module at a path need not run.

    Raises:
        UnrecordableError: control flow depends on floats, or a module with parameters did not run.
    """
    recorder = _Recorder(root, is_leaf)
    recorder.enter(inputs)
    with torch.no_grad(), _calls(recorder), recorder:
        outputs = root(inputs)
    recorder.graph.output(recorder.nodes_of(outputs))
    recorder.check_all_ran(is_excluded)
    return recorder.graph


class _Recorder(TorchFunctionMode):
    def __init__(self, root: nn.Module, is_leaf: Callable[[nn.Module, str], bool]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.is_leaf = is_leaf
        self.paths = {module: path for path, module in root.named_modules()}
        self.inside: list[str] = []
        self.is_in_leaf = False
        self._root = root
        self._ran: set[nn.Module] = set()
        self._tensors: dict[str, Tensor] = {**dict(root.named_parameters()), **dict(root.named_buffers())}
        self._names = {id(tensor): name for name, tensor in self._tensors.items()}
        self._nodes: dict[int, fx.Node] = {}
        self._known: list[Tensor] = []  # alive, so that no other tensor gets the id of one
        self._floats: set[int] = set()

    def enter(self, inputs: list[Tensor]) -> None:
        """Record what comes in."""
        self._register(inputs, self.graph.placeholder("inputs"), any_float=False)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.is_in_leaf:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        is_float = self._is_float([args, kwargs])
        if name in READING and is_float:
            raise UnrecordableError(
                self.inside[-1] if self.inside else "", "cannot be traced: its control flow depends on values"
            )
        arguments = self.nodes_of(args), self.nodes_of(kwargs)  # before the call, which may work in place
        value = func(*args, **kwargs)
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            self._register(value, self.graph.call_function(func, *arguments), is_float)
        return value

    def call(self, module: nn.Module, run: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        """Call a module, and record it if it is called as a whole."""
        path = self.paths.get(module)
        if self.is_in_leaf or path is None:
            return run()
        is_whole = self.is_leaf(module, path)
        self._ran.update(module.modules() if is_whole else [module])
        self.inside.append(path)
        arguments = (self.nodes_of(args), self.nodes_of(kwargs)) if is_whole else ((), {})
        self.is_in_leaf = is_whole
        try:
            value = run()
        finally:
            self.is_in_leaf = False
            self.inside.pop()
        if is_whole:
            self._register(value, self.graph.call_module(path, *arguments), any_float=True)
        return value

    def nodes_of(self, values: Any) -> Any:
        """Return values with a node in place of each tensor that one is known for."""
        return map_aggregate(_plain(values), self._node_of)

    def check_all_ran(self, is_excluded: Callable[[str], bool]) -> None:
        """Raise an error for a module that other samples might call."""
        read = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        for path, module in self._root.named_modules():
            own = [name for name, _ in module.named_parameters(prefix=path, recurse=False)]
            if own and module not in self._ran and not read & set(own) and not is_excluded(path):
                raise UnrecordableError(path, "did not run on two samples", "if it never runs, exclude it")

    def _node_of(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes and id(value) in self._names:
            self._register(value, self.graph.get_attr(self._names[id(value)]), value.is_floating_point())
        return self._nodes.get(id(value), value)

    def _register(self, value: Any, node: fx.Node, any_float: bool) -> None:
        if isinstance(value, Tensor):
            self._nodes[id(value)] = node
            self._known.append(value)
            if any_float or value.is_floating_point():
                self._floats.add(id(value))
        elif isinstance(value, (tuple, list)):
            for place, each in enumerate(value):
                if any(isinstance(leaf, Tensor) for leaf in tree_leaves(each)):
                    self._register(each, self.graph.call_function(operator.getitem, (node, place)), any_float)

    def _is_float(self, values: Any) -> bool:
        return any(
            isinstance(leaf, Tensor) and (leaf.is_floating_point() or id(leaf) in self._floats)
            for leaf in tree_leaves(_plain(values))
        )


def _plain(values: Any) -> Any:
    """Return values whose dictionaries, such as the outputs of transformers, are plain ones."""
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)) and not hasattr(values, "_fields"):
        return type(values)(_plain(value) for value in values) if type(values) in (list, tuple) else tuple(values)
    return values


@contextmanager
def _calls(recorder: _Recorder) -> Iterator[None]:
    """Tell the recorder of every call of a module."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return recorder.call(module, lambda: original(module, *args, **kwargs), args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
