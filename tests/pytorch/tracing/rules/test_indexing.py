"""Reading and writing by index and mask, against dense models with zeroed readers."""

import pytest
import torch
from torch import nn

import secateurs as sec


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def without_reading(layers, channels):
    """Make these layers ignore these of their inputs."""
    for layer in layers:
        layer.weight.data[:, channels] = 0


class Experts(nn.Module):
    """Each row goes through the two of four experts that its gate likes best."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(16, 32), nn.Linear(32, 4), nn.Linear(32, 5)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)) for _ in range(4)
        )

    def forward(self, x):
        x = self.first(x)
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, which = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                out.index_add_(0, rows, expert(x[rows]) * weights[rows, which, None])
        return self.last(x + out)


def test_a_mixture_of_experts_loses_channels_of_its_stream_and_of_its_experts():
    torch.manual_seed(0)
    model, rows = Experts().eval(), images(20, 16)
    small = sec.delete_channels(model, {"first": [3, 30], "experts.2.0": [0, 7, 40]}, rows)
    assert small.experts[2][0].weight.shape == (45, 30)
    assert [expert[2].out_features for expert in small.experts] == [30] * 4
    readers = [model.gate, model.last, *(expert[0] for expert in model.experts)]
    without_reading(readers, [3, 30])
    without_reading([model.experts[2][2]], [0, 7, 40])
    assert torch.allclose(small(rows), model(rows), atol=1e-5)


class Masked(nn.Module):
    """Some positions are replaced by a learned value, and only they are looked at in the end."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.unknown = nn.Parameter(torch.randn(8))
        self.register_buffer("hidden", torch.tensor([[True, False, True], [False, True, False]]))

    def forward(self, x):
        x = self.first(x)
        x[self.hidden] = self.unknown
        later = self.last(x.tanh())
        return later, self.last(x[self.hidden].tanh())


def test_channels_behind_a_mask_are_carried_when_written_and_when_read():
    torch.manual_seed(0)
    model, x = Masked().eval(), images(2, 3, 6)
    small = sec.delete_channels(model, {"first": [1, 5]}, x)
    assert small.unknown.shape == (6,)
    without_reading([model.last], [1, 5])
    for mine, theirs in zip(small(x), model(x), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


class Written(nn.Module):
    """Rows written to places given by number."""

    def __init__(self, accumulate):
        super().__init__()
        self.first, self.other, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.accumulate = accumulate

    def forward(self, x):
        places = (torch.tensor([0, 1]), torch.tensor([2, 0]))
        x, rows = self.first(x), self.other(x[:, 0])
        return self.last(x.index_put(places, rows, self.accumulate).relu())


@pytest.mark.parametrize("accumulate", [True, False])
def test_what_is_written_goes_with_what_it_is_written_to(accumulate):
    torch.manual_seed(0)
    model, x = Written(accumulate).eval(), images(2, 3, 6)
    network = sec.trace(model, x)
    assert [len(group) for group in network.groups] == [8]
    small = sec.delete_channels(model, {"other": [0, 4, 6]}, x)
    assert small.first.out_features == small.other.out_features == 5
    without_reading([model.last], [0, 4, 6])
    assert torch.allclose(small(x), model(x), atol=1e-5)


class Translator(nn.Module):
    """PyTorch's own transformer: its decoder looks at what its encoder made."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 3)
        self.body = nn.Transformer(32, 4, 1, 1, 48, dropout=0.0, batch_first=True)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.body(x, x[:, 1:]))


def test_pytorchs_transformer_loses_heads_of_either_attention():
    torch.manual_seed(0)
    model, x = Translator().eval(), images(2, 5, 6)
    network = sec.trace(model, x)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5)
    small = sec.apply(model, cut, x, network=network)
    assert sec.report_of(small).params_removed > 0.6
    across = small.body.decoder.layers[0].multihead_attn
    assert across.embed_dim == across.num_heads * across.head_dim < 32
    assert small(x).shape == (2, 5 - 1, 3)


GONE = [1, 4, 6]


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_bag_of_words_loses_columns(mode):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.EmbeddingBag(20, 8, mode=mode), nn.Linear(8, 3)

        def forward(self, x, starts):
            return self.out(self.words(x, starts))

    torch.manual_seed(0)
    model = Bag().eval()
    inputs = torch.randint(0, 20, (9,)), torch.tensor([0, 4, 7])
    small = sec.delete_channels(model, {"words": GONE}, inputs)
    assert small.words.weight.shape == (20, 5)
    with torch.no_grad():
        model.out.weight[:, GONE] = 0
        assert torch.allclose(small(*inputs), model(*inputs), atol=1e-5)
