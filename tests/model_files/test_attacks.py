"""Files made to harm who opens them: each gets one sentence and exit code 2, and costs neither memory nor time."""

import contextlib
import copyreg
import functools
import gc
import io
import json
import multiprocessing
import os
import pickle
import struct
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import nn

from toolkit import model_files as artifact
from toolkit.cli import main
from toolkit.errors import InputError
from toolkit.model_files.weights import load_weights, read_states
from toolkit.testing import TiedToy, toy_mlp

HUGE = 10**9
ALLOWED_MB = 200
ALLOWED_S = 60.0  # of a machine that does other things too; what hangs, hangs for hours
RECIPE = """\
[model]
source = "toolkit.testing:toy_mlp"
weights = "{weights}"
[data]
source = "toolkit.testing:toy_data"
args = {{ samples = 256 }}
[[stages]]
technique = "pruning"
"""


class Call:
    """Pickled, it calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class State:
    """Pickled, it is an instance of another class with any state."""

    def __init__(self, kind: type, state: Any) -> None:
        self.kind, self.state = kind, state

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # which the pickler compares
        return self.kind

    def __reduce_ex__(self, protocol: Any) -> Any:
        return copyreg.__newobj__, (self.kind,), self.state  # type: ignore[attr-defined]


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def archive(pickled: bytes) -> bytes:
    """What torch.save would write around these opcodes."""
    file = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(file)
    writer.write_record("data.pkl", pickled, len(pickled))
    writer.write_end_of_file()
    return file.getvalue()


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", compression, compresslevel=1) as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return file.getvalue()


def rezipped(content: bytes, more: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        return zipped({name: source.read(name) for name in source.namelist()} | more, compression)


@functools.cache
def zip_bomb() -> bytes:
    return zipped({"archive/data.pkl": bytes(3 * HUGE // 10), "archive/version": b"3\n"}, zipfile.ZIP_DEFLATED)


def tensor_bomb() -> bytes:
    return rezipped(saved({"1.weight": torch.zeros(6 * 10**7)}), {}, zipfile.ZIP_DEFLATED)


def skeleton(model: nn.Module) -> bytes:
    return artifact.pack(model)[artifact.SKELETON]


def with_attribute(**attributes: Any) -> bytes:
    """The intact skeleton with something more in one of its layers."""
    model = toy_mlp().to("meta")
    vars(model[1]).update(attributes)
    return saved(model)


def touching(path: str = "executed") -> Call:
    return Call(os.system, f"touch {path}")


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


SET, LIST_OF_100_000 = (
    b"c__builtin__\nset\n",
    b"](" + b"".join(b"J" + struct.pack("<i", n) for n in range(100_000)) + b"e",
)


def doubled(levels: int) -> bytes:
    """A tuple of two tuples of two tuples …, of a few bytes for each level."""
    return b"K\x01" + b"".join(put(5000 + level) + get(5000 + level) + b"\x86" for level in range(levels))


def lists_doubled(levels: int) -> bytes:
    """The same in lists, all of them in one more."""
    inner = b"".join(b"](" + get(5000 + level) * 2 + b"e" + put(5001 + level) for level in range(levels))
    return b"](]" + put(5000) + inner + b"e"


def many(count: int, first: bytes, each: bytes) -> bytes:
    """A list of equal values, of which the first is remembered."""
    return b"](" + first + each * count + b"e"


def in_a_layer(opcodes: bytes) -> bytes:
    """A skeleton in which these opcodes make an attribute of a layer."""
    with zipfile.ZipFile(io.BytesIO(with_attribute(attack="here"))) as source:
        pickled = source.read("archive/data.pkl")
    marked = pickled.index(b"X\x04\0\0\0here")
    return archive(pickled[:marked] + opcodes + pickled[marked + 9 :])


def modules_doubled(levels: int) -> nn.Module:
    """The intact model, with a module that holds another one twice, which holds another one twice …."""
    model = toy_mlp().to("meta")
    doubled: nn.Module = nn.Identity()
    for _ in range(levels):
        doubled = nn.Sequential(doubled, doubled)
    return model.append(doubled)


def module_in_itself() -> nn.Module:
    model = nn.Sequential(nn.Identity())
    model.add_module("1", model)
    return model


def named_at_length() -> nn.Module:
    """The intact model with a module of a very long name, which is a part of the names of all that is in it."""
    inner = nn.Sequential(*(nn.BatchNorm1d(1) for _ in range(100)))
    model = toy_mlp().to("meta")
    model.add_module("n" * 1_000_000, inner.to("meta"))
    return model


def listed(opcodes: bytes) -> bytes:
    """A skeleton of valid things, which holds no module."""
    return archive(b"\x80\x02" + opcodes + b".")


def partials_in_partials(make: bytes) -> bytes:
    """A partial of a partial of …, each with one more argument, and each kept in the memo."""
    count = 12_000
    partial, relu = b"cfunctools\npartial\n", b"ctorch.nn.functional\nrelu\n"
    inner = partial + put(9_999) + get(9_999) * (count - 1) + relu + b"N\x86" + make + put(10_000)
    return in_a_layer(inner + b"".join(b"N\x86" + make + put(10_001 + number) for number in range(count - 1)))


def frozen_sets(count: int) -> bytes:
    """One long list, made into a frozen set again and again without a call."""
    first = b"c__builtin__\nfrozenset\n" + put(9_999) + LIST_OF_100_000 + put(9_998) + b"\x85\x81"
    return in_a_layer(b"](" + first + (get(9_999) + get(9_998) + b"\x85\x81") * count + b"e")


def aliases(count: int) -> bytes:
    """One class by many names: modules that were imported lie in each other."""
    around = (b"linear.torch.nn.modules." * (number + 1) for number in range(count))
    names = b"".join(b"ctorch.nn.modules." + name + b"linear\nLinear\n" for name in around)
    return in_a_layer(b"](" + names + b"e")


SKELETONS: dict[str, Callable[[], bytes]] = {
    "partials in partials": lambda: partials_in_partials(b"R"),
    "partials in partials by NEWOBJ": lambda: partials_in_partials(b"\x81"),
    "frozen sets by NEWOBJ": lambda: frozen_sets(300),
    "a name of many parts": lambda: in_a_layer(b"ctorch.nn." + b"a." * 60_000 + b"a\nX\n"),
    "one class by many names": lambda: aliases(500),
    "one class by another name": lambda: aliases(1),
    "a function by a stored name": lambda: in_a_layer(b"c@toolkit\nload\n(X\x01\0\0\0.tR"),
    "a layer called by its stored name": lambda: in_a_layer(
        b"c@quantization\nInt8Linear\n" + LIST_OF_100_000 + b"\x85R"
    ),
    "a stored name of nothing": lambda: in_a_layer(b"c@quantization\nNothing\n)\x81"),
    "a stored name of nobody's": lambda: in_a_layer(b"c@nobody\nMask\n)\x81"),
    "a stored name of a module": lambda: in_a_layer(b"c@os\nsystem\n(X\x0e\0\0\0touch executedtR"),
    "os.system": lambda: saved(touching()),
    "os.system in a layer": lambda: with_attribute(attack=touching()),
    "os.system in a bare pickle": lambda: pickle.dumps(touching()),
    "eval": lambda: saved(Call(eval, "open('executed', 'w')")),
    "os.system by __setstate__": lambda: saved(State(nn.Linear, {"in_features": touching()})),
    "os.system by the state of a partial": lambda: with_attribute(
        attack=State(functools.partial, (os.system, ("touch executed",), {}, None))
    ),
    "layers without an end by __setstate__": lambda: saved(
        State(nn.LSTM, {"_all_weights": [[0]], "num_layers": HUGE, "bidirectional": True, "bias": True, "proj_size": 1})
    ),
    "huge bytearray": lambda: with_attribute(attack=Call(bytearray, HUGE)),
    "huge FloatTensor": lambda: with_attribute(attack=Call(torch.FloatTensor, HUGE)),
    "huge FloatTensor by NEWOBJ": lambda: with_attribute(attack=State(torch.FloatTensor, None)),
    "huge storage": lambda: with_attribute(attack=Call(torch.storage.UntypedStorage, HUGE)),
    "huge Linear": lambda: with_attribute(attack=Call(nn.Linear, 100_000, 10_000, True, "cpu")),
    "huge Linear as the model": lambda: saved(Call(nn.Linear, 100_000, 10_000, True, "cpu")),
    "huge Linear on meta": lambda: skeleton_of_huge_linear(),
    "layers without an end": lambda: saved(Call(nn.Transformer, 8, 2, 100_000, 100_000, 8)),
    "huge Linear in place of a method": lambda: with_attribute(
        modules=functools.partial(nn.Linear, 100_000, 10_000, device="cpu")
    ),
    "a hook": lambda: with_attribute(
        _forward_pre_hooks=OrderedDict({0: functools.partial(nn.Linear, 100_000, 10_000, device="cpu")})
    ),
    "zip bomb": zip_bomb,
    "compressed": lambda: rezipped(skeleton(toy_mlp()), {}, zipfile.ZIP_DEFLATED),
    "path traversal": lambda: rezipped(skeleton(toy_mlp()), {"archive/../../executed": b"x"}),
    "absolute path": lambda: rezipped(skeleton(toy_mlp()), {"/tmp/executed": b"x"}),
    "two pickles": lambda: rezipped(skeleton(toy_mlp()), {"archive/DATA.pkl": b"x"}),
    "dictionaries and no module": lambda: listed(many(1_000, b"", b"}")),
    "as many dictionaries as are made": lambda: listed(many(375_000, b"", b"}")),
    "as many ordered dictionaries as are made": lambda: listed(
        many(175_000, b"ccollections\nOrderedDict\n" + put(9999), get(9999) + b")R")
    ),
    "as many layers as are made": lambda: listed(
        many(100_000, b"ctorch.nn.modules.linear\nIdentity\n" + put(9999), get(9999) + b")\x81")
    ),
    "as many tensors as are made": lambda: listed(
        many(
            75_000,
            b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n" + put(9999) + b"ctorch\nfloat32\n" + put(9998),
            get(9999) + b"(" + get(9998) + b"))\x89tR",
        )
    ),
    "pickle without an end": lambda: archive(b"\x80\x02]" + put(0) + b"(" + b"}" * (4 << 20)),
    "objects without an end": lambda: archive(b"\x80\x02](" + b"}" * (3 << 20) + b"e."),
    "file without an end": lambda: bytes(16 << 20),
    "tuples doubled, as a key": lambda: in_a_layer(b"}" + doubled(60) + b"Ns"),
    "tuples doubled": lambda: in_a_layer(doubled(60)),
    "lists doubled": lambda: in_a_layer(lists_doubled(60)),
    "a list in itself": lambda: in_a_layer(b"]" + put(9999) + get(9999) + b"a"),
    "tuples nested deep": lambda: in_a_layer(b"}" + b")" + b"\x85" * 300_000 + b"Ns"),
    "keys of one hash": lambda: in_a_layer(
        b"}(" + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(100_000)) + b"u"
    ),
    "one list in many sets": lambda: in_a_layer(
        b"](" + SET + put(9999) + LIST_OF_100_000 + put(9998) + b"\x85R"
        + (get(9999) + get(9998) + b"\x85R") * 2000 + b"e"
    ),
    "one state of many objects": lambda: in_a_layer(
        b"](" + b"ctorch.nn.modules.linear\nIdentity\n" + put(9999) + b")\x81}("
        + b"".join(b"X\x05\0\0\0%05dN" % n for n in range(50_000)) + b"u" + put(9998) + b"b"
        + (get(9999) + b")\x81" + get(9998) + b"b") * 2000 + b"e"
    ),
    "modules doubled": lambda: saved(modules_doubled(60)),
    "modules in themselves": lambda: saved(module_in_itself()),
    "names without an end": lambda: saved(named_at_length()),
    "unknown class": lambda: saved(State(Call, {})),
    "persistent id": lambda: archive(b"\x80\x02X\x07\0\0\0storageQ."),
    "empty stack": lambda: archive(b"\x80\x02R."),
    "memo that is empty": lambda: archive(b"\x80\x02" + get(7) + b"."),
}  # fmt: skip


def skeleton_of_huge_linear() -> bytes:
    with torch.device("meta"):
        return saved(nn.Sequential(nn.Flatten(), nn.Linear(64, HUGE), nn.ReLU(), nn.Linear(HUGE, 4)).eval())


def header(content: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensors(changes: dict[str, torch.Tensor], ties: Any = None) -> bytes:
    state = toy_mlp().state_dict() | changes
    metadata = {"toolkit": json.dumps({"format": artifact.FORMAT, "ties": ties or {}})}
    return safetensors.torch.save(state, metadata)


def with_value(value: float, name: str = "1.weight") -> dict[str, torch.Tensor]:
    changed = toy_mlp().state_dict()[name].clone()
    changed.view(-1)[-1] = value
    return {name: changed}


@functools.cache
def many_tensors(count: int) -> bytes:
    named = ",".join(f'"{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(count))
    return header(f"{{{named}}}".encode())


def without(name: str, ties: Any) -> bytes:
    state = toy_mlp().state_dict()
    del state[name]
    return safetensors.torch.save(state, {"toolkit": json.dumps({"format": artifact.FORMAT, "ties": ties})})


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
TENSORS: dict[str, Callable[[], bytes]] = {
    "header of absurd size": lambda: header({}, length=2**63),
    "header longer than the file": lambda: header({}, length=HUGE),
    "long header": lambda: header(b"{" + b" " * (60 << 20) + b"}"),
    "header of deep brackets": lambda: header(b'{"a":' + b"[" * 1_000_000),
    "shape beyond the file": lambda: header({"1.weight": F32 | {"shape": [HUGE]}}, bytes(16)),
    "data beyond the file": lambda: header({"1.weight": F32 | {"shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}),
    "shape that overflows": lambda: header({"1.weight": F32 | {"shape": [2**62, 2**62]}}, bytes(16)),
    "negative shape": lambda: header({"1.weight": F32 | {"shape": [-4]}}, bytes(16)),
    "overlapping data": lambda: header({"1.weight": F32, "3.weight": F32}, bytes(16)),
    "more tensors than are read": lambda: many_tensors(500_000),
    "as many tensors as are read": lambda: many_tensors(120_000),
    "NaN": lambda: tensors(with_value(float("nan"))),
    "NaN in a bias": lambda: tensors(with_value(float("nan"), "3.bias")),
    "infinity": lambda: tensors(with_value(float("inf"))),
    "minus infinity": lambda: tensors(with_value(float("-inf"))),
    "path traversal": lambda: tensors({"../../executed": torch.ones(1)}),
    "ties in a circle": lambda: without("3.bias", {"3.bias": "1.bias", "1.bias": "3.bias"}),
    "tie to itself": lambda: without("3.bias", {"3.bias": "3.bias"}),
    "tie to nothing": lambda: without("3.bias", {"3.bias": "nowhere"}),
    "tie to no name": lambda: without("3.bias", {"3.bias": {"a": 1}}),
    "ties without an end": lambda: safetensors.torch.save(
        toy_mlp().state_dict(), {"toolkit": '{"format": 1, "ties": {"a": [' + "[]," * 2_000_000 + "0]}}"}
    ),
    "a pickle": lambda: saved(touching()),
}  # fmt: skip


def rebuilt(size: tuple[int, ...], elements: int = 1) -> Call:
    """A tensor of that size that lies in a storage of so many elements."""
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(elements).untyped_storage(), dtype=torch.float32, _internal=True
    )
    stride = tuple(torch.empty(size, device="meta").stride())
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, OrderedDict())


def state_dict(**changes: Any) -> dict[str, Any]:
    return dict(toy_mlp().state_dict()) | changes


def legacy(value: Any) -> bytes:
    return saved(value, _use_new_zipfile_serialization=False)


def legacy_with_huge_storage() -> bytes:
    content, size = legacy({"1.weight": torch.zeros(12345)}), b"M" + struct.pack("<H", 12345)
    storage, _, shape = content.partition(size)  # first in the storage, then in the shape
    assert size in shape
    return storage + b"J" + struct.pack("<i", 2**31 - 1) + shape


WEIGHTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "os.system": ("w.pt", lambda: saved(state_dict(attack=touching()))),
    "os.system in a bare pickle": ("w.pt", lambda: pickle.dumps(touching())),
    "os.system, legacy": ("w.pt", lambda: legacy(state_dict(attack=touching()))),
    "os.system as safetensors": ("w.safetensors", lambda: saved(state_dict(attack=touching()))),
    "huge bytearray": ("w.pt", lambda: saved(state_dict(attack=Call(bytearray, HUGE)))),
    "huge bytearray, legacy": ("w.pt", lambda: legacy(state_dict(attack=Call(bytearray, HUGE)))),
    "huge FloatTensor": ("w.pt", lambda: saved(state_dict(attack=Call(torch.FloatTensor, HUGE)))),
    "huge storage": ("w.pt", lambda: saved(state_dict(attack=Call(torch.storage.UntypedStorage, HUGE)))),
    "huge Linear": ("w.pt", lambda: saved(state_dict(attack=Call(nn.Linear, 100_000, 10_000)))),
    "a whole model": ("w.pt", lambda: saved(toy_mlp())),
    "zip bomb": ("w.pt", zip_bomb),
    "zip bomb of tensors": ("w.pt", tensor_bomb),
    "entries without an end": ("w.pt", lambda: zipped({"n" * 60_000 + str(n): b"" for n in range(150)})),
    "path traversal": ("w.pt", lambda: rezipped(saved(state_dict()), {"archive/../../executed": b"x"})),
    "tensor beyond the file": ("w.pt", lambda: saved(state_dict(**{"1.weight": rebuilt((32, 64))}))),
    "huge tensor beyond the file": ("w.pt", lambda: saved(state_dict(**{"1.weight": rebuilt((HUGE,))}))),
    "tensor beyond the file, legacy": ("w.pt", lambda: legacy({"1.weight": rebuilt((1000, 1000))})),
    "huge storage, legacy": ("w.pt", legacy_with_huge_storage),
    "objects without an end": ("w.pt", lambda: archive(b"\x80\x02](" + b"}" * (3 << 20) + b"e.")),
    "tuples doubled": ("w.pt", lambda: archive(b"\x80\x02}" + doubled(60) + b"Ns.")),
    "NaN": ("w.pt", lambda: saved(state_dict(**with_value(float("nan"))))),
    "infinity": ("w.pt", lambda: saved(state_dict(**with_value(float("inf"))))),
    "NaN in safetensors": ("w.safetensors", lambda: tensors(with_value(float("nan")))),
    "infinity in safetensors": ("w.safetensors", lambda: tensors(with_value(float("-inf"), "3.bias"))),
    **{f"{name} (safetensors)": ("w.safetensors", make) for name, make in TENSORS.items() if "tie" not in name},
}  # fmt: skip


NAMES = [
    *(f"{artifact.SKELETON} {name}" for name in SKELETONS),
    *(f"{artifact.TENSORS} {name}" for name in TENSORS),
    *(f"weights {name}" for name in WEIGHTS),
]


def write_attacks(folder: Path, names: set[str]) -> dict[str, list[str]]:
    """The files of these attacks, and the command for each."""
    commands = {}
    for kind, attacks in ((artifact.SKELETON, SKELETONS), (artifact.TENSORS, TENSORS)):
        for name, make in attacks.items():
            if f"{kind} {name}" not in names:
                continue
            directory = folder / f"{kind} {name}"
            directory.mkdir()
            for file, content in (artifact.pack(toy_mlp()) | {kind: make()}).items():
                (directory / file).write_bytes(content)
            commands[directory.name] = ["evaluate", directory.name, "--data", "toolkit.testing:toy_data"]
    for name, (file, content_of) in WEIGHTS.items():
        if f"weights {name}" not in names:
            continue
        directory = folder / f"weights {name}"
        directory.mkdir()
        (directory / file).write_bytes(content_of())
        (directory / "recipe.toml").write_text(RECIPE.format(weights=file))
        commands[directory.name] = ["check", f"{directory.name}/recipe.toml"]
    return commands


def run_attacks(folder: Path, commands: dict[str, list[str]], told: Path) -> None:
    """Run commands one by one, in a copy of this process, and write what each said and cost."""
    torch.set_num_threads(1)
    os.chdir(folder)
    with told.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        for name, command in commands.items():
            gc.collect()
            gc.freeze()  # what was imported is not collected again and again
            Path("/proc/self/clear_refs").write_text("5")
            before, start = memory_mb("VmRSS"), time.perf_counter()
            result = CliRunner().invoke(main, command)
            seconds = time.perf_counter() - start
            grown = memory_mb("VmHWM") - before
            output = result.output if isinstance(result.exception, SystemExit | None) else repr(result.exception)
            print(json.dumps([name, result.exit_code, output, grown, seconds]), flush=True)


def memory_mb(field: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each attack came to: exit code, output, memory, seconds; and the files that lie there afterwards.

    One process, a copy of this one, opens the files of all attacks that the selected tests name.
    """
    folder = tmp_path_factory.mktemp("attacks")
    selected = (getattr(item, "callspec", None) for item in request.session.items)
    commands = write_attacks(folder, {spec.params["name"] for spec in selected if spec and "name" in spec.params})
    (folder / "intact").mkdir()
    for file, content in artifact.pack(toy_mlp()).items():
        (folder / "intact" / file).write_bytes(content)
    torch.save(toy_mlp().state_dict(), folder / "intact" / "w.pt")
    (folder / "intact" / "recipe.toml").write_text(RECIPE.format(weights="w.pt"))
    warm = {
        "evaluate": ["evaluate", "intact", "--data", "toolkit.testing:toy_data", "--budget", "0.05"],
        "check": ["check", "intact/recipe.toml"],
    }
    before = {path for path in folder.rglob("*") if path.is_file()}
    told = tmp_path_factory.mktemp("told") / "told.txt"
    arguments = (folder, {**{f"warm {name}": command for name, command in warm.items()}, **commands}, told)
    process = multiprocessing.get_context("fork").Process(target=run_attacks, args=arguments)
    process.start()
    process.join(400)
    process.kill()  # if it hangs
    lines = [json.loads(line) for line in told.read_text().splitlines() if line.startswith("[")]
    appeared = {path for path in folder.rglob("*") if path.is_file()} - before
    return {name: rest for name, *rest in lines}, appeared, folder, told.read_text()[-2000:]


# Files of the largest size or count that is read at all take seconds each; smaller ones show the same by default.
AT_A_LIMIT = [
    *(f"model.skeleton as many {things} as are made" for things in ("dictionaries", "layers", "tensors")),
    "model.skeleton as many ordered dictionaries as are made",
    "model.skeleton objects without an end",
    "model.safetensors as many tensors as are read",
    "weights as many tensors as are read (safetensors)",
    "weights objects without an end",
    "weights zip bomb of tensors",
]
attacks = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in AT_A_LIMIT else []) for name in NAMES]
)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through /proc")
class TestAttacks:
    @attacks
    def test_it_gets_one_sentence(self, outcomes: Any, name: str) -> None:
        done, _, _, errors = outcomes
        assert name in done, errors
        code, output, _, _ = done[name]
        with_command = name == "model.skeleton unknown class"  # the command that would allow it
        assert (code, len(output.splitlines())) == (2, 2 if with_command else 1), output
        assert name.removesuffix("\n") in output
        assert len(output) < 600

    @attacks
    def test_it_costs_neither_memory_nor_time(self, outcomes: Any, name: str) -> None:
        done, _, folder, _ = outcomes
        _, _, grown_mb, seconds = done[name]
        size_mb = sum(path.stat().st_size for path in (folder / name).iterdir()) / 2**20
        assert grown_mb < 2 * size_mb + ALLOWED_MB
        assert seconds < ALLOWED_S

    def test_nothing_is_executed_or_written(self, outcomes: Any) -> None:
        assert outcomes[1] == set()

    def test_no_sentence_names_an_error_of_the_toolkit(self, outcomes: Any) -> None:
        assert len(outcomes[0]) > 2
        assert not [told for _, told, *_ in outcomes[0].values() if "RefusedError" in told]

    def test_intact_files_are_opened(self, outcomes: Any) -> None:
        for name in ("warm evaluate", "warm check"):
            assert outcomes[0][name][0] == 0, outcomes[0][name]


@pytest.mark.parametrize("name", [artifact.SKELETON, artifact.TENSORS])
@pytest.mark.smoke
def test_links_to_what_is_no_file_are_not_followed(name: str, tmp_path: Path) -> None:
    for file, content in artifact.pack(toy_mlp()).items():
        (tmp_path / file).write_bytes(content)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"no model: {name} is missing"):
        artifact.load(tmp_path)


def test_masks_of_attention_may_be_infinite(tmp_path: Path) -> None:
    model = toy_mlp()
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    for file, content in artifact.pack(model).items():
        (tmp_path / file).write_bytes(content)
    assert torch.equal(artifact.load(tmp_path).get_buffer("mask"), model.get_buffer("mask"))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_what_could_not_be_opened_is_not_written(value: float, dtype: torch.dtype) -> None:
    model = toy_mlp().to(dtype)
    with torch.no_grad():
        model.get_parameter("3.bias")[1] = value
    with pytest.raises(InputError, match=r"Sequential cannot be saved: the .* '3.bias' contain"):
        artifact.refuse_unsavable(model)


# Honest files of every kind.


def kinds_of_tensors() -> dict[str, torch.Tensor]:
    one = torch.nn.Parameter(torch.ones(2))
    one.tag = 3  # type: ignore[attr-defined]
    return {
        **TiedToy().state_dict(),
        "parameter": nn.Parameter(torch.ones(3), requires_grad=False),
        "parameter with an attribute": one,
        "half": torch.ones(3).half(),
        "integers": torch.arange(3),
        "bools": torch.tensor([True, False]),
        "complex": torch.ones(3, dtype=torch.complex64),
        "view": torch.arange(12.0).view(3, 4).t()[1:],
        "expanded": torch.ones(1).expand(2),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.0),
        "sparse": torch.eye(3).to_sparse(),
        "sparse rows": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "quantized rows": torch.quantize_per_channel(torch.ones(3, 2), torch.ones(3), torch.zeros(3), 0, torch.qint8),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
def test_state_dicts_of_every_kind_are_opened(zipped: bool, tmp_path: Path) -> None:
    expected = kinds_of_tensors()
    if zipped:
        expected |= {"float8": torch.ones(3).to(torch.float8_e4m3fn), "uint16": torch.ones(3, dtype=torch.uint16)}
    for state in (expected, OrderedDict(expected)):
        torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        found = read_states(tmp_path / "w.pt")[""]
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            assert (found[name].dtype, found[name].shape, found[name].layout) == (
                tensor.dtype,
                tensor.shape,
                tensor.layout,
            )
            assert torch.equal(dense(found[name]), dense(tensor)), name


def dense(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor.to_dense().float() if tensor.dtype.is_floating_point else tensor


@pytest.mark.parametrize("options", [[], ["--data", "toolkit.testing:toy_data"]], ids=["data of the run", "other data"])
@pytest.mark.smoke
def test_nothing_that_a_run_directory_names_is_executed(options: list[str], tmp_path: Path) -> None:
    from click.testing import CliRunner

    from toolkit.cli import main

    for file, content in artifact.pack(toy_mlp()).items():
        (tmp_path / file).write_bytes(content)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\ndata = model = metric = print\n")
    source = str(tmp_path / "evil.py")
    (tmp_path / "recipe.toml").write_text(
        f'[model]\nsource = "{source}:model"\n[data]\nsource = "{source}:data"\nmetrics = ["{source}:metric"]\n'
        f'[[stages]]\ntechnique = "distillation"\nparams = {{ student = {{ source = "{source}:model" }} }}\n'
    )
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), "--budget", "0.01", *options])
    assert result.exit_code == (0 if options else 2)
    assert not (tmp_path / "executed").exists()
