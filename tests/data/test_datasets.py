"""MNIST, unpacked from the package into a cache, and the validation split that is cut from any data."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from toolkit import Data
from toolkit.data.built_in import DATASETS
from toolkit.data.cache_folder import cache_folder
from toolkit.data.mnist import CHECKSUMS, mnist
from toolkit.data.validation_split import with_validation
from toolkit.errors import InputError

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
SMALLEST = "t10k-labels-idx1-ubyte"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache into which MNIST was unpacked once, for all tests here."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLKIT_CACHE", str(cache))
        mnist(samples=1)
    return cache


@pytest.fixture
def cache(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOOLKIT_CACHE", str(unpacked))
    return unpacked


@pytest.fixture(scope="module")
def digits(unpacked: Path) -> Data:
    """The complete MNIST."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLKIT_CACHE", str(unpacked))
        return mnist()


def pair(split: Any) -> tuple[Tensor, Tensor]:
    inputs, targets = split
    return inputs, targets


def files_in(cache: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and its time of change."""
    found = (path for path in cache.rglob("*") if path.is_file())
    return {str(path.relative_to(cache)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


# MNIST.


@pytest.mark.parametrize(("name", "counts"), [("train", TRAIN_COUNTS), ("test", TEST_COUNTS)])
@pytest.mark.smoke
def test_mnist_is_complete(name: str, counts: list[int], digits: Data) -> None:
    inputs, targets = pair(digits.split(name))
    assert inputs.shape == (sum(counts), 1, 28, 28)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert targets.bincount().tolist() == counts
    assert digits.samples(name) == len(inputs)


def test_mnist_is_standardized(digits: Data) -> None:
    inputs, _ = pair(digits.train)
    assert inputs.mean().item() == pytest.approx(0, abs=1e-3)
    assert inputs.std().item() == pytest.approx(1, abs=1e-3)
    pixels = inputs[:1000] * 0.3081 + 0.1307
    assert pixels.aminmax() == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert torch.allclose(pixels * 255, (pixels * 255).round(), atol=1e-3)


def test_mnist_shows_digits(digits: Data) -> None:
    """The answers belong to the pictures: the nearest class mean is right for most of them."""
    inputs, targets = pair(digits.train)
    means = torch.stack([inputs[:20_000][targets[:20_000] == digit].mean(dim=0).flatten() for digit in range(10)])
    unseen, answers = pair(digits.test)
    found = torch.cdist(unseen[:2000].flatten(1), means).argmin(dim=1)
    assert (found == answers[:2000]).double().mean() > 0.75


def test_mnist_has_no_validation_split_of_its_own(digits: Data) -> None:
    assert digits.validation is None
    assert not digits.augmented
    assert DATASETS["mnist"] is mnist


def test_samples_keeps_the_first_of_train_and_test(cache: Path, digits: Data) -> None:
    few = mnist(samples=7)
    for name in ("train", "test"):
        for kept, whole in zip(pair(few.split(name)), pair(digits.split(name)), strict=True):
            assert torch.equal(kept, whole[:7])


def test_samples_may_be_more_than_one_split_has(cache: Path) -> None:
    data = mnist(samples=20_000)
    assert (data.samples("train"), data.samples("test")) == (20_000, 10_000)


@pytest.mark.parametrize("samples", [0, -1])
def test_samples_must_be_positive(samples: int) -> None:
    with pytest.raises(InputError, match=f"samples must be at least 1, found {samples}"):
        mnist(samples=samples)


@pytest.mark.parametrize("samples", ["100", 10.5, True])
def test_samples_must_be_a_whole_number(samples: Any) -> None:
    with pytest.raises(InputError, match=f"mnist: samples must be a whole number, found {samples!r}"):
        mnist(samples=samples)


def test_a_small_part_does_not_keep_the_whole_in_memory(cache: Path) -> None:
    for tensor in (*pair(mnist(samples=5).train), *pair(mnist(samples=5).test)):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


# The cache.


def test_mnist_is_unpacked_once(cache: Path) -> None:
    before = files_in(cache)
    assert sorted(Path(name).name for name in before) == sorted(CHECKSUMS), "and nothing else is left behind"
    mnist(samples=1)
    assert files_in(cache) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
        lambda path: path.unlink(),
    ],
    ids=["empty", "truncated", "one bit", "missing"],
)
def test_a_damaged_file_is_replaced(damage: Callable[[Path], Any], cache: Path) -> None:
    before, path = files_in(cache), cache / "MNIST" / "raw" / SMALLEST
    content = path.read_bytes()
    damage(path)
    assert pair(mnist(samples=10).test)[1].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert path.read_bytes() == content
    assert files_in(cache).keys() == before.keys()
    unchanged = {name for name, found in files_in(cache).items() if found == before[name]}
    assert len(unchanged) == len(CHECKSUMS) - 1, "the others are left alone"


def refusal() -> str:
    with pytest.raises(InputError) as refused:
        mnist(samples=1)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("TOOLKIT_CACHE", str(file))
    message = refusal()
    assert message.startswith(f"cannot unpack MNIST into {file}")
    assert message.endswith("set TOOLKIT_CACHE to a writable folder")
    assert file.read_text() == "in the way"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failure_to_write_leaves_no_half_file(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", half)
    assert os.strerror(code) in refusal()
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TOOLKIT_CACHE": "/one", "XDG_CACHE_HOME": "/two", "HOME": "/three"}, "/one"),
        ({"XDG_CACHE_HOME": "/two", "HOME": "/three"}, "/two/torch-optimization-toolkit"),
        ({"HOME": "/three"}, "/three/.cache/torch-optimization-toolkit"),
        ({"TOOLKIT_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/three"}, "/three/.cache/torch-optimization-toolkit"),
    ],
)
def test_where_the_cache_lies(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOOLKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


# The validation split.


class Numbers(Dataset[Any]):
    """A map-style dataset whose samples are their positions."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return torch.tensor([float(position)]), position % 3


def numbers(count: int) -> tuple[Tensor, Tensor]:
    return torch.arange(float(count)).unsqueeze(1), torch.arange(count) % 3


KINDS: dict[str, Callable[[int], Any]] = {
    "tensors": numbers,
    "Dataset": Numbers,
    "TensorDataset": lambda count: TensorDataset(*numbers(count)),
}


def positions(data: Data, name: str) -> list[int]:
    """Which of the numbers a split holds; their targets still belong to them."""
    batches = list(data.batches(name, batch_size=1000))
    inputs, targets = (torch.cat([getattr(batch, part) for batch in batches]) for part in ("inputs", "targets"))
    found = inputs.squeeze(1).long()
    assert torch.equal(targets, found % 3)
    return found.tolist()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("total", "asked", "held_out"), [(100, None, 10), (105, None, 10), (60, 25, 25), (9, None, 0), (10, 9, 9)]
)
@pytest.mark.smoke
def test_the_validation_split_is_cut_from_train(
    kind: Callable[[int], Any], total: int, asked: int | None, held_out: int
) -> None:
    original = Data(train=kind(total), test=kind(5))
    data = with_validation(original, asked)
    kept = positions(data, "train")
    validation = positions(data, "validation") if data.validation is not None else []
    assert len(validation) == held_out
    assert sorted(kept + validation) == list(range(total))
    assert kept == sorted(kept), "what stays keeps its order"
    assert data.test is original.test
    assert original.validation is None


@pytest.mark.parametrize("asked", [None, 30])
def test_the_validation_split_does_not_depend_on_the_seed(asked: int | None) -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        data = with_validation(Data(train=numbers(400)), asked)
        assert torch.equal(torch.get_rng_state(), state), "nothing is drawn from the global generator"
        found.append(positions(data, "validation"))
    assert found[0] == found[1]
    assert found[0] != list(range(len(found[0]))), "it is a permutation, not the beginning"
    assert found[0] != list(range(400 - len(found[0]), 400))


def test_the_permutation_is_the_same_for_every_kind_of_split() -> None:
    found = [positions(with_validation(Data(train=kind(200)), None), "validation") for kind in KINDS.values()]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("total", "held_out"), [(49_990, 4_999), (50_000, 5_000), (60_000, 5_000)])
def test_by_default_a_tenth_is_held_out_and_at_most_5000(total: int, held_out: int) -> None:
    data = with_validation(Data(train=(torch.zeros(total, 1), torch.zeros(total))), None)
    assert (data.samples("validation"), data.samples("train")) == (held_out, total - held_out)


def test_zero_means_no_validation_split(caplog: pytest.LogCaptureFixture) -> None:
    data = Data(train=numbers(9))
    assert with_validation(data, 0) is data
    assert data.selection_split == "train"
    assert not caplog.messages


def test_too_few_samples_for_a_default_validation_split_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    data = Data(train=numbers(9))
    assert with_validation(data, None) is data
    [message] = caplog.messages
    assert message == "9 training samples are too few for a validation split; set `[data] validation` to cut one"
    assert with_validation(data, 1).samples("validation") == 1
    assert caplog.messages == [message]


@pytest.mark.parametrize("asked", [None, 0, 7])
def test_a_validation_split_of_the_source_is_kept(asked: int | None) -> None:
    data = Data(train=numbers(100), validation=numbers(3))
    assert with_validation(data, asked) is data


@pytest.mark.parametrize("asked", [100, 101])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_more_validation_samples_than_there_are_is_an_error(kind: Callable[[int], Any], asked: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^`validation` must be less than the number of training samples \(100\), found {asked}$"
    ):
        with_validation(Data(train=kind(100)), asked)


def test_what_is_held_out_of_a_dataset_is_read_from_it() -> None:
    samples = Numbers(50)
    data = with_validation(Data(train=samples), 10)
    assert isinstance(data.train, Subset)
    assert data.train.dataset is samples
    assert data.augmented, "a Dataset may transform its samples"
    assert not with_validation(Data(train=TensorDataset(*numbers(50))), 10).augmented


@pytest.mark.parametrize("several", [dict, tuple])
def test_several_inputs_are_cut_together(several: Any) -> None:
    inputs, targets = numbers(40)
    two: Any = {"a": inputs, "b": 2 * inputs} if several is dict else (inputs, 2 * inputs)
    data = with_validation(Data(train=(two, targets)), 10)
    for name, size in (("train", 30), ("validation", 10)):
        batch = next(iter(data.batches(name)))
        assert type(batch.inputs) is several
        first, second = batch.inputs.values() if several is dict else batch.inputs
        assert len(batch) == len(first) == size
        assert torch.equal(second, 2 * first)
        assert torch.equal(batch.targets, first.squeeze(1).long() % 3)


def test_cutting_twice_cuts_once() -> None:
    data = with_validation(Data(train=numbers(100)), 20)
    assert with_validation(data, 20) is data
    assert replace(data, validation=None).samples("train") == 80
