"""Experts that no example input was sent to are cut with those beside them."""

import torch
from torch import nn

import secateurs as sec


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(8, 16), nn.Linear(16, 6), nn.Linear(16, 5)
        self.experts = nn.ModuleList(Expert() for _ in range(6))

    def forward(self, x):
        x = self.first(x)
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, which = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                out.index_add_(0, rows, expert(x[rows]) * weights[rows, which, None])
        return self.last(x + out)


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = 24
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x):
        return self.down(self.up(x).view(-1, self.width).relu())


def test_experts_that_were_not_seen_answer_as_the_dense_ones_would():
    torch.manual_seed(0)
    model, x = Experts().eval(), torch.randn(2, 8)
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
