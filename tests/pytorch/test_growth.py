"""The work grows linearly with the model, counted in calls instead of seconds."""

import time

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.planning import removal_order


def chain(layers: int) -> nn.Module:
    parts = [part for _ in range(layers) for part in (nn.Conv2d(4, 4, 1), nn.ReLU())]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(16, 2)).eval()


def seconds_for(layers: int) -> float:
    model, x = chain(layers), torch.randn(1, 4, 2, 2)
    start = time.process_time()
    network = sec.trace(model, x)
    sec.plan(network, sec.score(network, "l1"), sec.Budget(params=0.5))
    return time.process_time() - start


def test_a_chain_ten_times_as_long_takes_ten_times_as_long():
    seconds_for(10)
    short, long = (min(seconds_for(layers) for _ in range(2)) for layers in (60, 600))
    assert long < 30 * short  # quadratic would be 100 times


class Attention(nn.Module):
    """A head size kept at construction, and a path that depends on shapes being equal."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (make(x).view(shape).transpose(1, 2) for make in (self.q, self.k, self.v))
        if k.shape[-1] != v.shape[-1]:
            raise ValueError("keys and values of one size are needed")
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + self.out(mixed.reshape(*x.shape[:-1], -1))


def test_what_one_layer_needed_is_done_for_all_of_its_kind(monkeypatch):
    """Each rehearsal ends in the first layer that raises; one must do for forty layers."""
    from secateurs.pytorch.sizes import hardcoded

    rehearsals = 0
    rehearse = hardcoded.DryRun.rehearse

    def count_call(self):
        nonlocal rehearsals
        rehearsals += 1
        return rehearse(self)

    monkeypatch.setattr(hardcoded.DryRun, "rehearse", count_call)
    model = nn.Sequential(*(Attention(8, 2) for _ in range(40)), nn.Linear(8, 2)).eval()
    x = torch.randn(1, 3, 8)
    network = sec.trace(model, x)
    assert rehearsals < 10
    assert {len(group) for group in network.groups} >= {2, 4}
    sides = {group.name: np.arange(len(group)) for group in network.groups}
    small = sec.apply(model, sec.plan(network, sides, amount=0.5), x, network=network)
    assert small[39].head_dim == 2
    assert sec.report_of(small).proof.holds


def test_planning_looks_at_each_tensor_once_however_many_groups_there_are(monkeypatch):
    network = sec.trace(chain(60), torch.randn(1, 4, 2, 2))
    looks = []
    is_depthwise = removal_order.is_depthwise

    def note_look(network, tensor):
        looks.append(tensor.name)
        return is_depthwise(network, tensor)

    monkeypatch.setattr(removal_order, "is_depthwise", note_look)
    sec.plan(network, sec.score(network, "l1"), sec.Budget(params=0.5))
    assert len(looks) == len(set(looks)) == len(network.tensors)
