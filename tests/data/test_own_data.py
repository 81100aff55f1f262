"""Data as users have it: functions that return splits, loaders, folders of pictures, datasets that others made."""

import errno
import gzip
import logging
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler, random_split
from torchvision import datasets

from toolkit import Data
from toolkit.data import folder
from toolkit.data.batches import in_memory
from toolkit.data.coerce import FORMS as RETURNED_FORMS
from toolkit.data.coerce import as_data
from toolkit.data.downloaded import CIFAR10, FASHION, cifar10, cifar100, fashion_mnist
from toolkit.data.folder import image_folder
from toolkit.data.validation_split import with_validation
from toolkit.errors import InputError, RecipeError
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.read import parse_recipe
from toolkit.recipe.resolved import resolved_recipe
from toolkit.runner.assembly import assemble, make_data
from toolkit.storage.identity import data_fingerprint


def numbers(count=10):
    return torch.arange(float(count)).unsqueeze(1), torch.arange(count) % 3


class Numbers(Dataset):
    """Samples as `form` makes them of a number."""

    def __init__(self, form=lambda number: (torch.tensor([float(number)]), number % 3), count=10):
        self.form, self.count = form, count

    def __len__(self):
        return self.count

    def __getitem__(self, position):
        return self.form(position)


def read(data, name="train"):
    batches = list(data.batches(name, batch_size=4))
    return torch.cat([batch.inputs for batch in batches]), torch.cat([batch.targets for batch in batches])


def refusal(function, *args, **options):
    with pytest.raises((InputError, ValueError)) as refused:
        function(*args, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# What a function returns.

LOADER: Any = DataLoader(Numbers())
FORMS = {
    "tensors": lambda: numbers(),
    "a list": lambda: list(numbers()),
    "arrays": lambda: tuple(part.numpy() for part in numbers()),
    "arrays of float64": lambda: (numbers()[0].double().numpy(), numbers()[1].numpy()),
    "TensorDataset": lambda: TensorDataset(*numbers()),
    "Dataset": lambda: Numbers(),
    "Subset": lambda: random_split(TensorDataset(*numbers()), [10, 0])[0],
    "DataLoader": lambda: DataLoader(TensorDataset(*numbers()), batch_size=4, shuffle=True),
    "DataLoader of a Dataset": lambda: DataLoader(Numbers(), batch_size=4),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.smoke
def test_every_form_of_a_split_is_read(form):
    data = as_data((FORMS[form](), FORMS[form]()), "own.py:load", 4)
    for name in ("train", "test"):
        inputs, targets = read(data, name)
        assert inputs.dtype == torch.float32
        order = inputs.flatten().argsort()
        assert torch.equal(inputs[order], numbers()[0])
        assert torch.equal(targets[order], numbers()[1])


@pytest.mark.parametrize("form", ["TensorDataset", "Subset", "DataLoader", "arrays"])
def test_what_is_in_memory_stays_there(form):
    data = as_data((FORMS[form](), FORMS[form]()), "own.py:load", 4)
    assert isinstance(in_memory(data.train), tuple)


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (lambda: (numbers(), numbers(4)), {"train": 10, "test": 4}),
        (lambda: (numbers(), numbers(5), numbers(4)), {"train": 10, "validation": 5, "test": 4}),
        (lambda: [numbers(), None, numbers(4)], {"train": 10, "test": 4}),
        (lambda: {"train": numbers(), "val": numbers(3)}, {"train": 10, "validation": 3}),
        (
            lambda: {"train": numbers(), "valid": numbers(3), "test": numbers(2)},
            {"train": 10, "validation": 3, "test": 2},
        ),
        (lambda: Data(LOADER, test=numbers(4)), {"train": 10, "test": 4}),
    ],
)
def test_splits_come_in_order_or_by_name(returned, names):
    data = as_data(returned(), "own.py:load", 1)
    assert {name: data.samples(name) for name in names} == names
    missing = {"train", "validation", "test"} - names.keys()
    assert all(getattr(data, name) is None for name in missing)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (
            7,
            f"must return {RETURNED_FORMS}, found int",
        ),
        (numbers(), "each split as (inputs, targets), found (Tensor, Tensor)"),
        ((*numbers(), *numbers()), "found (Tensor, Tensor, Tensor, Tensor)"),
        (Numbers(), "found a single Numbers"),
        (DataLoader(Numbers()), "found a single DataLoader"),
        ({"training": numbers()}, "found a dictionary with the keys ['training']"),
        ((numbers(), "photos"), "the test split must be a map-style Dataset or tensors, found str"),
        (
            (numbers(), (torch.ones(1), torch.ones(1), torch.ones(1))),
            "must be a pair (inputs, targets), found 3 elements",
        ),
        (
            (DataLoader(Numbers(), batch_size=None), numbers()),
            "the train split must be a DataLoader with a batch_size, found None",
        ),
    ],
)
def test_what_is_no_data_is_named(returned, said):
    assert said in refusal(as_data, returned, "own.py:load", 1)


def test_an_endless_loader_is_named():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter([])

    for split in (Endless(), DataLoader(Endless())):
        assert "the train split must be a map-style Dataset or tensors, found Endless without a length" in refusal(
            as_data, (split, numbers()), "own.py:load", 1
        )


# Samples of a Dataset.


def test_samples_may_be_dictionaries_with_labels():
    samples = Numbers(lambda number: {"ids": torch.tensor([number]), "mask": torch.ones(1), "labels": number % 3})
    batch = next(iter(Data(samples).batches("train", batch_size=4)))
    assert batch.inputs.keys() == {"ids", "mask"}
    assert batch.inputs["ids"].flatten().tolist() == [0, 1, 2, 3]
    assert batch.targets.tolist() == [0, 1, 2, 0]


def test_several_inputs_are_a_tuple():
    samples = Numbers(lambda number: ((torch.tensor([number]), torch.tensor([2 * number])), 0))
    batch = next(iter(Data(samples).batches("train", batch_size=4)))
    assert isinstance(batch.inputs, tuple)
    assert torch.equal(2 * batch.inputs[0], batch.inputs[1])


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            lambda number: (torch.ones(1), torch.ones(1), 0),
            "samples must be pairs (inputs, target), found 3 elements; return several inputs as a tuple",
        ),
        (lambda number: torch.ones(1), "samples must be pairs (inputs, target), found Tensor"),
        (
            lambda number: {"a": 1, "b": 2},
            "samples must have one of the keys 'labels', 'label', 'targets', 'target', found 'a', 'b'",
        ),
        (
            lambda number: (Image.new("L", (2, 2)), 0),
            "samples must contain tensors or numbers, found Image, int; add a transform",
        ),
        (
            lambda number: (torch.ones(number + 1), 0),
            "samples must have equal shapes (",
        ),
    ],
)
def test_samples_of_no_use_are_named(form, said):
    assert said in refusal(lambda: list(Data(Numbers(form)).batches("train", batch_size=4)))


def pad(samples):
    longest = max(len(inputs) for inputs, _ in samples)
    inputs = torch.stack([torch.nn.functional.pad(inputs, (0, longest - len(inputs))) for inputs, _ in samples])
    return inputs, torch.tensor([target for _, target in samples])


def test_a_loader_puts_samples_together_as_it_wants():
    ragged = Numbers(lambda number: (torch.full((number + 1,), float(number)), number % 3))
    data = as_data((DataLoader(ragged, batch_size=4, collate_fn=pad), numbers()), "own.py:load", 4)
    order = torch.tensor([2, 5, 0])
    batch = next(iter(data.training_batches(order, 4)))
    assert batch.inputs.shape == (3, 6)
    assert batch.inputs[:, 0].tolist() == [2, 5, 0]
    assert batch.index.tolist() == [2, 5, 0]
    assert batch.targets.tolist() == [2, 2, 0]


def test_a_validation_split_of_a_loader_is_put_together_as_train_is():
    ragged = Numbers(lambda number: (torch.full((number + 1,), float(number)), number % 3))
    data = with_validation(as_data((DataLoader(ragged, collate_fn=pad), numbers()), "own.py:load", 1), 4)
    assert next(iter(data.batches("validation"))).inputs.dim() == 2


def test_what_of_a_loader_is_not_used_is_said(caplog):
    sampler = WeightedRandomSampler(torch.ones(10).tolist(), 10)
    with caplog.at_level(logging.WARNING, "toolkit"):
        as_data((DataLoader(Numbers(), batch_size=32, sampler=sampler), numbers()), "own.py:load", 128)
    assert caplog.messages == [
        "ignoring these settings of the train DataLoader: batch_size 32 ([data] batch_size is 128), "
        "WeightedRandomSampler (training shuffles all samples)"
    ]
    caplog.clear()
    as_data((DataLoader(Numbers(), batch_size=128, shuffle=True), numbers()), "own.py:load", 128)
    assert not caplog.messages


# Pictures in folders.


def photos(root, classes=("apple", "leaf"), count=10, size=(20, 30)):
    generator = np.random.default_rng(sum(map(ord, str(classes))))
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for position in range(count):
            pixels = generator.integers(0, 40, (*size, 3)) + np.array([200 * number, 100, 0])
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{position}.png")
    return str(root)


def test_a_folder_of_classes_is_cut(tmp_path):
    data = image_folder(photos(tmp_path / "p"), size=16)
    for name, count in (("train", 16), ("test", 4)):
        inputs, targets = read(data, name)
        assert (inputs.shape, inputs.dtype) == ((count, 3, 16, 16), torch.float32)
        assert targets.bincount().tolist() == [count // 2, count // 2]
        red = inputs[:, 0].mean(dim=(1, 2)) * 0.229 + 0.485
        assert torch.equal((red > 0.5).long(), targets), "the pictures belong to their classes"
    assert data_fingerprint(data) == data_fingerprint(image_folder(str(tmp_path / "p"), size=16))
    assert not {tuple(row.tolist()) for row in read(data)[0].flatten(1)} & {
        tuple(row.tolist()) for row in read(data, "test")[0].flatten(1)
    }


def test_folders_of_splits_are_kept(tmp_path):
    for name, count in (("train", 5), ("val", 2), ("test", 3)):
        photos(tmp_path / name, count=count)
    data = image_folder(str(tmp_path), size=8)
    assert [data.samples(name) for name in ("train", "validation", "test")] == [10, 4, 6]


def test_grey_pictures_of_a_given_mean(tmp_path):
    data = image_folder(photos(tmp_path / "p"), size=8, channels=1, mean=[0.0], std=[1.0])
    inputs, _ = read(data)
    assert inputs.shape[1:] == (1, 8, 8)
    assert 0 <= inputs.min() < inputs.max() <= 1


def test_a_crop_leaves_the_border_out(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            pixels = np.full((40, 40, 3), 255, dtype=np.uint8)
            pixels[10:30, 10:30] = 0
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    plain = {"root": str(tmp_path), "mean": [0.0], "std": [1.0]}
    assert read(image_folder(size=40, **plain))[0].mean() == pytest.approx(0.75)
    data = image_folder(size=20, crop=0.5, **plain)
    assert data.preparation.startswith(
        "the center 20 × 20 pixels of an image whose shorter side is scaled to 40 pixels; "
    )
    half, _ = read(data)
    assert half.shape[2:] == (20, 20)
    assert half.max() == 0


def test_pictures_beyond_memory_are_read_from_their_files(tmp_path, monkeypatch):
    held = image_folder(photos(tmp_path / "p"), size=8)
    monkeypatch.setattr(folder, "MAX_IN_MEMORY_BYTES", 100)
    lying = image_folder(str(tmp_path / "p"), size=8)
    assert isinstance(held.train, tuple)
    assert not isinstance(lying.train, tuple)
    assert all(torch.equal(one, other) for one, other in zip(read(held), read(lying), strict=True))


@pytest.mark.parametrize("held", [True, False])
def test_a_broken_picture_is_named(tmp_path, monkeypatch, held):
    root = photos(tmp_path / "p")
    (tmp_path / "p" / "leaf" / "3.png").write_bytes(b"no picture")
    if not held:
        monkeypatch.setattr(folder, "MAX_IN_MEMORY_BYTES", 100)
    found = refusal(
        lambda: (list(image_folder(root, size=8).batches("train")), list(image_folder(root).batches("test")))
    )
    assert f"cannot read the image {tmp_path}/p/leaf/3.png" in found


def test_folders_of_no_use_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    one, bare, lonely = (tmp_path / name for name in ("one", "bare", "lonely"))
    photos(one, classes=("apple",))
    photos(bare)
    (bare / "nothing").mkdir()
    photos(lonely)
    photos(lonely / "more", classes=("x",), count=1)
    (lonely / "more" / "x").rename(lonely / "x")
    (lonely / "more").rmdir()
    photos(tmp_path / "split" / "train")
    photos(tmp_path / "split" / "test", classes=("apple", "pear"))
    expected = {
        "no": f"image-folder: {tmp_path}/no does not exist",
        "empty": "must contain one subfolder per class, at least 2, found none",
        "one": "at least 2, found only 'apple'",
        "bare": f"{bare}/nothing contains no images; supported: .bmp",
        "lonely": "class 'x' must have at least 2 images, found 1",
        "split": "must have the same classes, found in only one of them: leaf, pear",
    }
    for name, said in expected.items():
        assert said in refusal(image_folder, str(tmp_path / name))
    for arguments, message in (
        ({"channels": 4}, "channels must be 1 or 3, found 4"),
        ({"size": 0}, "size must be at least 1, found 0"),
        ({"test": 1.0}, "test must be between 0 and 1, found 1.0"),
        ({"crop": 1.5}, "crop must be between 0.1 and 1, found 1.5"),
        ({"mean": [0.5, 0.5]}, "mean must have one value per channel (3), found 2"),
    ):
        assert refusal(image_folder, str(bare), **arguments) == f"image-folder: {message}"


def test_a_folder_lies_beside_the_recipe(tmp_path):
    photos(tmp_path / "p")
    table = DataTable.model_validate(
        {"source": "image-folder", "args": {"root": "p", "size": 8}}, context={"directory": tmp_path}
    )
    assert make_data(table).samples("train") == 15, "one of 16 is held out for validation"


# Datasets of torchvision, and of others.

MORE = """
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

shrink = v2.Compose([v2.ToImage(), v2.Resize((4, 4)), v2.ToDtype(torch.float32, scale=True)])

class Dark:
    def __call__(self, picture):
        return shrink(picture) * 0

class Split(Dataset):
    def __init__(self, split, count=6):
        self.split, self.count = split, count
    def __len__(self):
        return self.count
    def __getitem__(self, position):
        return torch.full((1,), float(len(self.split))), position % 2
"""
FAKE = {
    "source": "torchvision.datasets:FakeData",
    "args": {"image_size": [3, 8, 8], "num_classes": 3},
    "train_args": {"size": 20},
    "test_args": {"size": 10, "random_offset": 99},
}


@pytest.fixture
def table(tmp_path):
    (tmp_path / "more.py").write_text(MORE)

    def table(content):
        return DataTable.model_validate({"validation": 0, **content}, context={"directory": tmp_path})

    return table


def test_a_dataset_class_is_called_for_each_split(table):
    data = make_data(table(FAKE))
    assert [data.samples(name) for name in ("train", "test")] == [20, 10]
    inputs, targets = read(data)
    assert (inputs.shape, inputs.dtype) == ((20, 3, 8, 8), torch.float32), "pictures become tensors"
    assert 0 <= inputs.min() < inputs.max() <= 1
    assert set(targets.tolist()) <= {0, 1, 2}


def test_a_transform_is_named_by_its_source(table):
    data = make_data(table({**FAKE, "transform": "more.py:shrink", "train_transform": "more.py:Dark"}))
    train, test = read(data)[0], read(data, "test")[0]
    assert train.shape[1:] == test.shape[1:] == (3, 4, 4)
    assert train.abs().max() == 0 < test.abs().max()


def test_what_chooses_a_split_is_known_by_its_name(table):
    data = make_data(table({"source": "more.py:Split"}))
    assert read(data)[0].unique().tolist() == [5.0]
    assert read(data, "test")[0].unique().tolist() == [4.0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"train_args": None, "test_args": None}, "is one Dataset class for several splits; set train_args = { … }"),
        ({"train_args": {"sise": 3}}, "unknown argument 'sise'; did you mean 'size'?"),
        ({"transform": "more.py:shrunk"}, "has no 'shrunk'; did you mean 'shrink'?"),
        ({"transform": "shrink"}, "'shrink' must be 'package.module:transform' or 'file.py:transform'"),
        ({"source": "more.py:Split", "args": {}, "train_args": {}, "test_args": None}, "missing a required argument"),
        (
            {"source": "more.py:Split", "args": {"split": "a"}, "train_args": {}, "transform": "more.py:shrink"},
            "has no argument `transform`",
        ),
        ({"source": "mnist", "args": {}}, "`train_args` requires a source that is a Dataset class; 'mnist' is not one"),
    ],
)
def test_mistakes_about_a_dataset_class(table, content, said):
    if content.get("source"):
        content = {**content, "test_args": content.get("test_args")}
    with pytest.raises(ValueError) as refused:
        table({**FAKE, **content})
    assert said in str(refused.value)


def test_a_resolved_recipe_keeps_every_split(tmp_path):
    (tmp_path / "more.py").write_text(MORE)
    text = """
    [model]
    source = "mlp"
    args = { hidden = [4], inputs = 1 }
    training = { epochs = 1 }
    [data]
    source = "more.py:Split"
    args = { split = "all" }
    train_args = { count = 8 }
    test_args = {}
    [[stages]]
    technique = "pruning"
    """
    recipe = parse_recipe(text, "own.toml", tmp_path)
    again = parse_recipe(resolved_recipe(recipe, 1, "cpu", {}), "again.toml", tmp_path)
    assert make_data(again.data).samples("test") == make_data(recipe.data).samples("test") == 6


def test_a_target_that_the_model_cannot_answer_is_found_wherever_it_lies(tmp_path):
    photos(tmp_path / "p", classes=("a", "b", "c", "d"))
    text = """
    [model]
    source = "mlp"
    args = { hidden = [4], inputs = 192, classes = 3 }
    training = { epochs = 1 }
    [data]
    source = "image-folder"
    args = { root = "p", size = 8 }
    [[stages]]
    technique = "pruning"
    """
    with pytest.raises(RecipeError, match="targets must be class indices from 0 to 2, found 3"):
        assemble(parse_recipe(text, "own.toml", tmp_path))


# By name, downloaded by torchvision.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""

    def unreachable(*_, **__):
        raise URLError(OSError(errno.ENETUNREACH, "Network is unreachable"))

    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    return tmp_path / "datasets"


@pytest.mark.parametrize(
    ("source", "title", "files"),
    [
        (fashion_mnist, "Fashion-MNIST", "t10k-labels-idx1-ubyte.gz"),
        (cifar10, "CIFAR-10", "cifar-10-python.tar.gz"),
        (cifar100, "CIFAR-100", "cifar-100-python.tar.gz"),
    ],
)
def test_without_a_network_it_says_which_files_go_where(cache, source, title, files):
    found = refusal(source)
    assert found.startswith(f"cannot download {title} into {cache} (")
    assert files in found
    assert f"into {cache / 'FashionMNIST/raw' if title.startswith('F') else cache}" in found


def archive(path, folder, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            (path.parent / name).write_bytes(pickle.dumps(content))
            tar.add(path.parent / name, f"{folder}/{name}")
            (path.parent / name).unlink()


def small(labels, count=6, seed=0):
    generator = np.random.default_rng(seed)
    numbers = generator.integers(0, 10, count).tolist()
    return {"data": generator.integers(0, 256, (count, 3072), dtype=np.uint8), labels: numbers}


@pytest.mark.parametrize(
    ("kind", "source", "label"), [("CIFAR10", cifar10, "labels"), ("CIFAR100", cifar100, "fine_labels")]
)
def test_cifar_is_read_from_the_archive_that_was_put_there(cache, monkeypatch, kind, source, label):
    made = getattr(datasets, kind)
    names = [name for name, _ in (*made.train_list, *made.test_list)]
    files = {name: small(label, seed=place) for place, name in enumerate(names)}
    archive(cache / made.filename, made.base_folder, {**files, made.meta["filename"]: {made.meta["key"]: ["a"] * 100}})
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(made, attribute, [[name, None] for name, _ in getattr(made, attribute)])
    monkeypatch.setattr(made, "meta", {**made.meta, "md5": None})
    monkeypatch.setattr(made, "tgz_md5", None)
    data = source(samples=5)
    inputs, targets = read(data)
    first = files[names[0]]
    assert inputs.shape == (5, 3, 32, 32)
    assert targets.tolist() == first[label][:5]
    pixels = (
        inputs * torch.tensor(data.convert.std).view(3, 1, 1) + torch.tensor(data.convert.mean).view(3, 1, 1)
    ) * 255
    assert torch.allclose(pixels.flatten(1), torch.tensor(first["data"][:5]).float(), atol=1e-3)
    assert data.samples("test") == 5
    assert source().samples("train") == 6 * len(made.train_list)


def test_fashion_mnist_is_read_from_the_files_that_were_put_there(cache, monkeypatch):
    raw = cache / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 6), ("t10k", 3)):
        pixels = torch.arange(count * 784) % 256
        images = struct.pack(">iiii", 2051, count, 28, 28) + pixels.to(torch.uint8).numpy().tobytes()
        for part, content in (
            ("images-idx3", images),
            ("labels-idx1", struct.pack(">ii", 2049, count) + bytes(range(count))),
        ):
            (raw / f"{name}-{part}-ubyte.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(
        datasets.FashionMNIST, "resources", [(name, None) for name, _ in datasets.FashionMNIST.resources]
    )
    inputs, targets = read(fashion_mnist())
    assert inputs.shape == (6, 1, 28, 28)
    assert targets.tolist() == list(range(6))
    assert (inputs.flatten()[:256] * 0.3530 + 0.2860).mul(255).round().tolist() == list(range(256))


def test_samples_must_be_positive():
    for known in (CIFAR10, FASHION):
        assert "samples must be at least 1, found 0" in refusal(known.load, 0)


def test_the_names_are_those_of_recipes(tmp_path):
    for name in ("fashion-mnist", "cifar-10", "cifar-100"):
        table = DataTable.model_validate({"source": name, "args": {"samples": 3}}, context={"directory": Path()})
        assert table.source == name
