"""Networks whose inputs are padded to the longest sample of each batch run on every length in every runtime."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from toolkit.data.reader import Collated
from toolkit.data.splits import Data
from toolkit.errors import TechniqueError
from toolkit.exports.files import export_model
from toolkit.exports.judge import compare
from toolkit.hooks import loading
from toolkit.masks import clone

WORDS = 20


class Reader(nn.Module):
    """Attention over tokens (N, length), of which 0 is padding; answers (N, 4)."""

    def __init__(self):
        super().__init__()
        self.words, self.attention = nn.Embedding(WORDS, 16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.leave = nn.Linear(16, 4)

    def forward(self, tokens, mask):
        states = self.words(tokens)
        states = self.attention(states, states, states, key_padding_mask=mask == 0, need_weights=False)[0]
        return self.leave((states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.lstm, self.leave = nn.Embedding(WORDS, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, tokens, mask):
        return self.leave(self.lstm(self.words(tokens) * mask[:, :, None])[0].mean(1))


def collate(samples):
    tokens = pad_sequence([torch.tensor(tokens) for tokens, _ in samples], batch_first=True)
    return (tokens, (tokens != 0).float()), torch.tensor([target for _, target in samples])


def sentences(first: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    lengths = [first, first, *(1 + number % 9 for number in range(30))]
    drawn = [(torch.randint(1, WORDS, (length,), generator=generator).tolist(), length % 4) for length in lengths]
    split = Collated(drawn, collate)
    return Data(train=split, validation=split, test=split, batch_size=4)


def quantized(model: nn.Module) -> nn.Module:
    from toolkit_quantization import Params, convert

    return convert(model, Params(arithmetic="int8"))


@torch.no_grad()
@pytest.mark.parametrize("is_int8", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "runtime", ["onnxruntime", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "pt2", "aoti"))]
)
def test_every_length_gives_the_outputs_of_the_model(runtime, is_int8, tmp_path):
    torch.manual_seed(0)
    model, data, plugin = Reader().eval(), sentences(5), loading.load(runtime, "runtime")
    model = quantized(clone(model)) if is_int8 else model
    file = export_model(plugin, plugin.params_class(), model, data, tmp_path / "files")
    with file.opened(1) as session:
        assert compare(session, model, data, "test").output_error < (5e-3 if is_int8 else 1e-5)
    assert "- (N, any) int64\n- (N, any) float32\n" in (file.folder / "README.md").read_text()
    assert "Outputs:\n- (N, 4) float32\n" in (file.folder / "README.md").read_text()


@torch.no_grad()
@pytest.mark.slow
def test_recurrent_layers_run_on_every_length_in_onnx_runtime(tmp_path):
    model, data, plugin = Recurrent().eval(), sentences(5), loading.load("onnxruntime", "runtime")
    file = export_model(plugin, plugin.params_class(), model, data, tmp_path / "files")
    with file.opened(1) as session:
        assert compare(session, model, data, "test").output_error < 1e-5


def test_a_network_that_is_traced_for_one_length_only_is_refused(tmp_path):
    plugin = loading.load("pt2", "runtime")
    with pytest.raises(TechniqueError, match=r"for size 5 of dimension 1 of 'tokens' alone.*pad all samples"):
        export_model(plugin, plugin.params_class(), Recurrent().eval(), sentences(5), tmp_path / "files")
    assert not list(tmp_path.iterdir())
