"""Weights computed from weights: effects on kept channels are compensated or reported."""

import copy

import pytest
import torch
import torch.nn.utils.parametrizations as new
from torch import nn
from torch.nn import functional as F

import secateurs as sec


class Computed(nn.Linear):
    """A layer whose weight is a function of its parameter."""

    def __init__(self, function):
        super().__init__(16, 20)
        self.function = function

    def forward(self, x):
        return F.linear(x, self.function(self.weight), self.bias)


FUNCTIONS = {
    "divided by its norm": lambda w: w / w.norm(),
    "rows of length one": lambda w: w / (w**2).sum(1, keepdim=True).sqrt(),
    "columns of length one": lambda w: w / (w * w).sum(0, keepdim=True).sqrt(),
    "normalize": lambda w: F.normalize(w, dim=1),
    "less its sum": lambda w: w - w.sum(1, keepdim=True) / 16,
    "standardised": lambda w: (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True),
    "standardised by batch norm": lambda w: F.batch_norm(w[None], None, None, training=True)[0],
    "by the largest": lambda w: w / w.abs().max(),
    "by the sum of magnitudes": lambda w: w / w.abs().sum(),
    "einsum over rows": lambda w: w / torch.einsum("oi,oi->i", w, w).sqrt(),
    "einsum over columns": lambda w: w / torch.einsum("oi,oi->o", w, w).sqrt()[:, None],
    "softmax by hand": lambda w: w.exp() / w.exp().sum(1, keepdim=True),
    "softmax": lambda w: w.softmax(1),
    "by its own product": lambda w: w / (w.T @ w).diagonal().mean().sqrt(),
    "variance": lambda w: w / torch.var(w, (0, 1)),
    "std_mean": lambda w: w / torch.std_mean(w)[0],
}


def train(middle):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), middle, nn.Tanh(), nn.Linear(20, 3))
    with torch.no_grad():
        for _ in range(20):  # the power iterations of spectral norm
            model.train()(torch.randn(8, 6))
    return model.eval()


def change(model, layer, reader, dead):
    """(how far the answers move when what nobody reads goes, what the proof names)."""
    model = copy.deepcopy(model)
    inputs = torch.randn(8, 6)
    with torch.no_grad():
        reader(model).weight[:, dead] = 0
        small = sec.delete_channels(model, {layer: dead}, inputs)
        moved = (small(inputs) - model(inputs)).abs().max() / model(inputs).abs().max()
    return moved.item(), sec.report_of(small).proof.inexact


@pytest.mark.parametrize("form", FUNCTIONS)
def test_where_filters_go_survivors_stay_or_are_named(form):
    model = train(Computed(FUNCTIONS[form]))
    try:
        moved, named = change(model, "2", lambda m: m[4], [0, 3, 4, 11])
    except sec.CutError as error:
        assert "cannot be removed" in str(error)  # noqa: PT017 - refused before anything is done
        return
    assert moved < 1e-5 or named


WHOLE = ["divided by its norm", "by the largest", "by the sum of magnitudes", "std_mean"]


@pytest.mark.parametrize("form", WHOLE)
def test_a_number_of_the_whole_weight_names_what_makes_it(form):
    model = train(Computed(FUNCTIONS[form]))
    _, named = change(model, "2", lambda m: m[4], [0, 3])
    assert [name for name in named if name.endswith("over channels in 2")]


def test_rows_of_length_one_are_exact_where_rows_go():
    moved, named = change(
        train(Computed(FUNCTIONS["rows of length one"])), "2", lambda m: m[4], [0, 3]
    )
    assert moved < 1e-5
    assert named == ()


@pytest.mark.parametrize(
    ("norm", "layer"),
    [(nn.utils.spectral_norm, "2"), (new.spectral_norm, "2.parametrizations.weight")],
)
def test_spectral_norm_old_and_new_is_named(norm, layer):
    moved, named = change(
        train(norm(nn.Linear(16, 20))), layer, lambda m: m[4], list(range(0, 20, 2))
    )
    assert moved > 0.01  # sigma is of all rows
    assert any("over channels in 2" in name for name in named)


@pytest.mark.read_without_weights
def test_low_rank_factors_stay_exact():
    """A product of two weights is a third: the inner channels are read by one of them."""

    class Factored(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Parameter(torch.randn(6, 10)), nn.Parameter(torch.randn(10, 4))

        def forward(self, x):
            return x @ (self.down @ self.up)

    model, inputs = Factored().eval(), torch.randn(3, 6)
    small = sec.delete_channels(model, {"down": [1, 7]}, inputs)
    assert small.up.shape == (8, 4)
    assert sec.report_of(small).proof.inexact == ()
    kept = [0, 2, 3, 4, 5, 6, 8, 9]
    with torch.no_grad():
        expected = inputs @ model.down[:, kept] @ model.up[kept]
    assert torch.allclose(small(inputs), expected, atol=1e-5)


class Demodulated(nn.Module):
    """Filters scaled by a style of the input, then brought to length one, as in StyleGAN2."""

    def __init__(self):
        super().__init__()
        self.first, self.style = nn.Linear(6, 8), nn.Linear(6, 8)
        self.weight = nn.Parameter(torch.randn(10, 8))
        self.last = nn.Linear(10, 3)

    def forward(self, x):
        weight = self.weight[None] * self.style(x)[:, None, :]
        weight = weight * torch.rsqrt(weight.square().sum(2, keepdim=True) + 1e-8)
        return self.last(torch.bmm(weight, self.first(x)[:, :, None])[:, :, 0].relu())


def test_demodulation_is_exact_for_its_filters_and_named_for_what_it_reads():
    torch.manual_seed(0)
    model, inputs = Demodulated().eval(), torch.randn(4, 6)
    assert sec.report_of(sec.delete_channels(model, {"last": []}, inputs)).proof.inexact == ()
    network = sec.trace(model, inputs)
    named = {group.name: group.inexact for group in network.groups}
    assert named["first"] == ("sum over channels in the model",)
    assert [one for name, one in named.items() if name != "first"] == [()]


class Pooled(nn.Module):
    """BERT's pooler: of one sentence, a single row goes through two layers."""

    def __init__(self):
        super().__init__()
        self.table, self.dense, self.head = nn.Embedding(50, 8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.dense(self.table(tokens * 1)[:, 0])))


def test_what_tokens_look_up_is_not_made_of_weights_alone():
    torch.manual_seed(0)
    model, tokens = Pooled().eval(), torch.arange(6)[None]
    assert [mixing.operation for mixing in sec.trace(model, tokens).mixings] == []
    gone = [0, 3, 4, 9]
    small = sec.delete_channels(model, {"dense": gone}, tokens)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.head.weight[:, gone] = 0
    torch.testing.assert_close(small(tokens), masked(tokens))
    assert not vars(tokens)


class Style(nn.Module):
    """A learned vector goes through a layer with a bias, and is added to what the input gives."""

    def __init__(self):
        super().__init__()
        self.style = nn.Parameter(torch.randn(1, 8))
        self.mapping, self.body, self.head = nn.Linear(8, 12), nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(torch.relu(self.body(x) + self.mapping(self.style)))


def test_a_learned_vector_goes_through_a_layer_with_a_bias():
    torch.manual_seed(0)
    model, x = Style().eval(), torch.randn(2, 4)
    gone = [1, 5, 11]
    small = sec.delete_channels(model, {"body": gone}, x)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.head.weight[:, gone] = 0
    torch.testing.assert_close(small(x), masked(x))
