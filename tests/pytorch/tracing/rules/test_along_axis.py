"""Operations along one axis freeze it and carry the others."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import secateurs as sec
from support.between import GONE, check, model_of, why_frozen

X = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))
ORDER = torch.tensor([3, 0, 5, 1, 4, 2])[None, :, None]
ONE = torch.tensor([2, 0, 2, 5])


def order(h):
    return ORDER.expand_as(h)


CARRY = {
    "sort": lambda h: h.sort(1).values,
    "sort, stable": lambda h: h.sort(dim=1, stable=True, descending=True).values,
    "msort": lambda h: h.transpose(0, 1).msort().transpose(0, 1),
    "topk": lambda h: h.topk(3, 1).values,
    "median": lambda h: h.median(1).values,
    "median, kept": lambda h: h.median(1, keepdim=True).values,
    "nanmedian": lambda h: h.nanmedian(1).values,
    "quantile": lambda h: h.quantile(0.3, dim=1),
    "mode": lambda h: h.round().mode(1).values,
    "kthvalue": lambda h: h.kthvalue(2, 1).values,
    "cummax": lambda h: h.cummax(1).values,
    "cummin": lambda h: h.cummin(1).values,
    "cumsum": lambda h: h.cumsum(1),
    "cumprod": lambda h: h.cumprod(1),
    "logcumsumexp": lambda h: h.logcumsumexp(1),
    "diff": lambda h: h.diff(dim=1),
    "softmax": lambda h: h.softmax(1),
    "aminmax": lambda h: h.aminmax(dim=1).max,
    "gather": lambda h: h.gather(1, order(h)),
    "gather by sorting": lambda h: h.gather(1, h.argsort(1)),
    "take_along_dim": lambda h: h.take_along_dim(ORDER, 1),
    "scatter": lambda h: torch.zeros_like(h).scatter(1, order(h), h),
    "scatter a number": lambda h: h.scatter(1, ORDER[:, :2].expand(2, 2, h.size(2)), 0.5),
    "scatter_add": lambda h: torch.zeros_like(h).scatter_add(1, order(h), h),
    "scatter_add_ to zeros": lambda h: h.new_zeros(h.shape).scatter_add_(1, order(h), h),
    "scatter_reduce": lambda h: torch.zeros_like(h).scatter_reduce(1, order(h), h, "amax"),
    "scatter_reduce, mean": lambda h: h.scatter_reduce(1, order(h), h, "mean"),
    "index_select": lambda h: h.index_select(1, ONE),
    "index_add": lambda h: h.index_add(1, ONE, h[:, :4]),
    "index_copy": lambda h: h.index_copy(1, ONE[1:], h[:, :3]),
    "index_fill": lambda h: h.index_fill(1, ONE, 0.5),
    "index_reduce": lambda h: h.index_reduce(1, ONE, h[:, :4], "amax"),
    "select_scatter": lambda h: h.select_scatter(h[:, 0] * 2, 1, 3),
    "slice_scatter": lambda h: h.slice_scatter(h[:, :2] * 2, 1, 3, 5),
    "segment_reduce": lambda h: torch.segment_reduce(h[0], "mean", lengths=torch.tensor([2, 4])),
    "masked_fill": lambda h: h.masked_fill(ORDER > 2, 0.0),
    "index, apart": lambda h: h[torch.tensor([0, 1]), torch.tensor([[2], [5]])],
    "index, behind a new axis": lambda h: h[:, None, ONE],
    "cumsum_": lambda h: h.clone().cumsum_(1),
    "index_fill_ of a slice": lambda h: h.clone().index_fill_(1, ONE[:1], 0.5),
    "searchsorted": lambda h: torch.searchsorted(
        h.mT.sort().values.contiguous(), h.mT.contiguous()
    ).mT.float(),
    "searchsorted among constants": lambda h: torch.searchsorted(torch.tensor([0.1, 0.4]), h) / 2,
    "bucketize": lambda h: torch.bucketize(h, torch.tensor([0.1, 0.4])) / 2,
    "count_nonzero": lambda h: h.relu().count_nonzero(1).float(),
    "any": lambda h: h * (h > 0.3).any(1, keepdim=True),
    "rows by a mask": lambda h: h.masked_scatter(ORDER > 2, h.flip(1)),
    "rows by a wide mask": lambda h: h.masked_scatter((ORDER > 2).expand_as(h), h.flip(1)),
    "rows by a mask in place": lambda h: torch.zeros_like(h).masked_scatter_(ORDER > 2, h),
    "complex numbers": lambda h: torch.view_as_complex(torch.stack([h, h * 2], -1)).abs(),
    "real numbers": lambda h: torch.view_as_real(torch.polar(h.abs(), h)).sum(-1),
    "diag_embed": lambda h: torch.diag_embed(h, dim1=1).sum(1),
    "solve": lambda h: torch.linalg.solve(torch.eye(6) * 2 + 0.1, h),
    "solve from the right": lambda h: (
        torch.linalg.solve(torch.eye(6) * 2 + 0.1, h.mT, left=False).mT
    ),
    "solve_triangular": lambda h: torch.linalg.solve_triangular(
        (torch.eye(6) * 2).expand(2, 6, 6), h, upper=True
    ),
    "cholesky_solve": lambda h: h.cholesky_solve((torch.eye(6) * 2).expand(2, 6, 6)),
    "tril of others": lambda h: h.transpose(1, 2)[..., None].tril()[..., 0].transpose(1, 2),
}


@pytest.mark.filterwarnings("ignore:.*beta:UserWarning")
@pytest.mark.parametrize("name", CARRY)
def test_the_other_axes_are_carried(name):
    check(CARRY[name], X)


ALONG = {
    "sort": lambda h: h.sort(-1).values,
    "topk": lambda h: h.topk(8, -1).values,
    "cummax": lambda h: h.cummax(-1).values,
    "cumsum": lambda h: h.cumsum(-1),
    "gather": lambda h: h.gather(2, torch.arange(8).flip(0).expand(2, 6, 8)),
    "index_select": lambda h: h.index_select(2, torch.arange(8).flip(0)),
    "index_add": lambda h: h.index_add(2, ONE, h[..., :4]),
    "cumsum_": lambda h: h.clone().cumsum_(-1),
    "searchsorted": lambda h: torch.searchsorted(h.sort().values, h).float(),
    "scatter": lambda h: h.scatter(2, torch.arange(8).flip(0).expand(2, 6, 8), h),
}


@pytest.mark.parametrize("name", ALONG)
def test_along_their_own_axis_nothing_goes(name):
    assert f"{name.rstrip('_')} along this axis at" in why_frozen(ALONG[name], X)


def test_a_mask_of_its_own_for_each_channel_keeps_these():
    mask = torch.rand(2, 6, 8) > 0.5
    reason = why_frozen(lambda h: h.masked_scatter(mask, h.flip(1)), X)
    assert "no rule for aten::masked_scatter at" in reason


def test_what_shortens_to_a_length_is_measured_without_channels_that_go_and_named():
    """A channel of zeros adds nothing to a length; the others get longer without it."""
    model = model_of(lambda h: h.renorm(2, 1, 0.5), inputs=5)
    small = sec.delete_channels(model, {"a": GONE}, X)
    assert [where for where in sec.report_of(small).proof.inexact if "renorm" in where]
    with torch.no_grad():
        model.a.weight[GONE], model.a.bias[GONE] = 0, 0
        assert torch.allclose(small(X), model(X), atol=1e-5)


def test_what_a_write_in_place_would_have_to_ignore_stays():
    """Each step's length over its channels is read from the tensor that is written into."""
    assert "no rule for aten::renorm_" in why_frozen(lambda h: h.clone().renorm_(2, 1, 0.5), X)


def test_an_index_of_its_own_for_each_channel_keeps_these():
    each = torch.stack([torch.randperm(6) for _ in range(8)], 1)[None].expand(2, 6, 8)
    assert "a tensor of fixed size" in why_frozen(lambda h: h.gather(1, each), X)


def test_an_index_that_covers_some_channels_keeps_all():
    assert "gather covers only some" in why_frozen(
        lambda h: torch.cat([h.gather(1, order(h)[..., :4]), h[..., 4:]], -1), X
    )


NUMBERED = {
    "argmax": lambda h: h * h.argmax(-1, keepdim=True),
    "max": lambda h: h * h.max(-1, keepdim=True).indices,
    "min, of all": lambda h: h * h.argmin(),
}


@pytest.mark.parametrize("name", NUMBERED)
def test_channels_whose_numbers_are_read_stay(name):
    assert "arg" in why_frozen(NUMBERED[name], X) or "indices of these channels" in why_frozen(
        NUMBERED[name], X
    )


def test_the_largest_channel_may_be_another_one_when_only_its_value_is_read():
    model = nn.Sequential(nn.Linear(5, 8), Largest()).eval()
    (group,) = sec.trace(model, X).groups
    assert len(group) == 8


class Largest(nn.Module):
    def forward(self, x):
        return x.max(-1).values


def test_classes_whose_numbers_are_the_output_stay():
    class Labels(nn.Module):
        def forward(self, x):
            return x.max(-1).indices

    network = sec.trace(nn.Sequential(nn.Linear(5, 8), Labels()).eval(), X)
    assert not network.groups


class Packed(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.layer = kind(6, 8, batch_first=True, **options)
        self.out = nn.Linear(16 if options.get("bidirectional") else 8, 3)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(self.words(x), lengths, True, enforce_sorted=False)
        return self.out(pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_packed_sequences_lose_words_channels_and_hidden_units(kind, options):
    torch.manual_seed(0)
    model = Packed(kind, **options).eval()
    x, lengths = torch.randint(0, 20, (3, 7)), torch.tensor([7, 3, 5])
    small = sec.delete_channels(model, {"words": [0, 5]}, (x, lengths))
    with torch.no_grad():
        for name, weight in model.layer.named_parameters():
            if name.startswith("weight_ih_l0"):
                weight[:, [0, 5]] = 0
        assert torch.allclose(small(x, lengths), model(x, lengths), atol=1e-5)
    pruned = sec.prune(model, (x, lengths), sec.Budget(channels=0.5)).model
    assert (pruned.layer.hidden_size, pruned.layer.input_size) == (4, 3)


MATRICES = {
    "slogdet": lambda h: h * torch.linalg.slogdet(h.mT @ h).logabsdet[:, None, None],
    "inverse": lambda h: h @ torch.linalg.inv(h.mT @ h),
    "matrix_exp": lambda h: h @ torch.matrix_exp(h.mT @ h),
}


@pytest.mark.parametrize("name", MATRICES)
def test_whole_matrices_keep_their_channels(name):
    assert "needs the whole matrix" in why_frozen(MATRICES[name], X)


def channels_of(network):
    return {group.name: len(group) for group in network.groups}


@pytest.mark.parametrize(("axis", "free"), [(1, False), (2, True)])
def test_a_transform_freezes_what_it_runs_along(axis, free):
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 2, 1)

        def forward(self, x):
            spectrum = torch.fft.rfft(self.conv(x), dim=axis)
            return self.head(torch.fft.irfft(spectrum, x.shape[-1] if free else 8, dim=axis))

    network = sec.trace(Spectral(), torch.randn(2, 3, 6))
    assert list(channels_of(network).values()) == ([8] if free else [])
    reasons = [reason for one in network.frozen for reason in one.reasons]
    assert any("_fft_r2c over these channels" in reason for reason in reasons) == (not free)
