"""Experts that no example input reached are cut like those beside them."""

import pytest
import torch
from torch import nn

import secateurs as sec


def by_rows(model, x, weights, chosen):
    """The rows of each expert are looked for; one that has none does not run."""
    out = torch.zeros_like(x)
    for number, expert in enumerate(model.experts):
        rows, which = (chosen == number).nonzero(as_tuple=True)
        if len(rows):
            out.index_add_(0, rows, expert(x[rows]) * weights[rows, which, None])
    return out


def one_by_one(model, x, weights, chosen):
    """A loop over the tokens: an expert runs as often as it is chosen."""
    rows = [
        sum(
            weights[row, place] * model.experts[number](x[row : row + 1])[0]
            for place, number in each
        )
        for row, each in enumerate(map(enumerate, chosen.tolist()))
    ]
    return torch.stack(rows)


def sort_by_expert(model, x, weights, chosen):
    """The rows in the order of their experts; one that has none gets an empty piece."""
    order, times = chosen.flatten().argsort(), torch.bincount(chosen.flatten(), minlength=6)
    pieces = x.repeat_interleave(2, 0)[order].split(times.tolist())
    made = torch.cat([expert(rows) for expert, rows in zip(model.experts, pieces, strict=True)])
    out = torch.empty_like(made)
    out[order] = made
    return (out.view(len(x), 2, -1) * weights[..., None]).sum(1)


class Experts(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run
        self.first, self.gate, self.last = nn.Linear(8, 16), nn.Linear(16, 6), nn.Linear(16, 5)
        self.experts = nn.ModuleList(Expert() for _ in range(6))

    def forward(self, x):
        x = self.first(x)
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        return self.last(x + self.run(self, x, weights, chosen))


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = 24
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x):
        return self.down(self.up(x).view(-1, self.width).relu())


@pytest.mark.parametrize("run", [by_rows, one_by_one, sort_by_expert], ids=lambda run: run.__name__)
def test_experts_that_did_not_run_give_the_dense_outputs_after_a_cut(run):
    torch.manual_seed(0)
    model, x = Experts(run).eval(), torch.randn(2, 8)
    network = sec.trace(model, x)
    assert all(tensor.is_read for tensor in network.tensors.values())
    pruned = sec.prune(model, x, sec.Budget(channels=0.5))
    small, removed = pruned.model, {n: c.removed for n, c in pruned.cut.tensors.items()}
    assert {expert.width for expert in small.experts} == {12}
    # Inputs that are sent to all of them, against the dense model whose readers are zeroed.
    many = torch.randn(200, 8)
    with torch.no_grad():
        for name, layer in model.named_modules():
            for index in removed.get(f"{name}.weight", {}).get(1, ()):
                layer.weight[:, index] = 0
        assert torch.allclose(small(many), model(many), atol=1e-5)


class Halting(nn.Module):
    """As many layers as a value says: channels of the last that ran meet the stream."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 5)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.least = 0.0

    def forward(self, x):
        x = state = self.first(x)
        for layer in self.layers:
            if state.abs().mean() <= self.least:
                break
            state = layer(state)
        return self.last(x + state)


def test_another_decision_than_in_the_trace_is_refused_and_said():
    torch.manual_seed(0)
    model, x = Halting().eval(), torch.randn(2, 8)
    state = model.layers[0](model.first(x)).detach().abs().mean(0)
    gone = state.argsort()[8:].tolist()  # with the large ones gone it halts after the first layer
    model.least = float((state.mean() + state[state.argsort()[:8]].mean()) / 2)
    with pytest.raises(sec.CutError, match="takes another path without these channels"):
        sec.delete_channels(model, {"layers.0": gone}, x)
