"""Replaying passes of models that write in place: into slices, buffers and new tensors."""

import copy
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.pytorch.ablation.oracle import ablate_channels
from secateurs.pytorch.replay.tape import record
from secateurs.pytorch.trace_model import source_of


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3, bias=False)
        self.register_buffer("state", torch.rand(2, 8))
        self.register_buffer("mean", torch.rand(8))

    def encode(self, x):
        return self.a(x).relu()


class Slice(Base):
    def forward(self, x):
        h = self.encode(x)
        self.state[0] = h.mean(0)
        return self.b(h + self.state[0])


class Average(Base):
    def forward(self, x):
        h = self.encode(x)
        self.mean.mul_(0.9).add_(h.mean(0) * 0.1)
        return self.b(h - self.mean)


class Whole(Base):
    def forward(self, x):
        h = self.encode(x)
        self.mean[:] = h.mean(0)
        return self.b(h * 2 - self.mean)


class ReadsMemoryAlone(Base):
    def forward(self, x):
        h = self.encode(x)
        self.state[0].copy_(h.mean(0))
        self.state[1] = h.amax(0)
        return self.b(h) + self.b(self.state).sum(0)


class Fresh(Base):
    def forward(self, x):
        h = self.encode(x)
        both = torch.zeros(len(x), 2, h.shape[1])
        both[:, 0] = h
        both[:, 1] = h * 2
        return self.b(both).sum(1)


class ViewedBefore(Base):
    def forward(self, x):
        view = self.mean[:]
        self.mean.add_(self.encode(x).mean(0))
        return self.b(self.encode(x) + view)


class Without(nn.Module):
    """The first layer with a gate on each of its neurons."""

    def __init__(self, layer, gate):
        super().__init__()
        self.layer, self.gate = layer, gate

    def forward(self, x):
        return self.layer(x) * self.gate


WRITERS = [Slice, Average, Whole, ReadsMemoryAlone, Fresh, ViewedBefore]


@pytest.mark.parametrize("kind", WRITERS)
def test_scores_are_those_of_the_model_itself_and_leave_it_alone(kind):
    torch.manual_seed(2)
    model = kind().eval()
    model.mean.zero_()  # what no neuron made stays where a neuron is gated
    model.state.zero_()
    x, y = torch.rand(1, 4), torch.tensor([2])
    before = copy.deepcopy(model.state_dict())
    gate = torch.ones(8, requires_grad=True)

    def loss(gate):
        gated = copy.deepcopy(model)
        gated.a = Without(gated.a, gate)
        gated.requires_grad_(False)
        return F.cross_entropy(gated(x), y)

    dense = loss(gate)
    dense.backward()
    network = sec.trace(model, x)
    score = sec.score(network, "taylor", data=[(x, y)])["a"]
    np.testing.assert_allclose(score, gate.grad.abs().numpy(), rtol=1e-4, atol=1e-6)
    removed = torch.ones(8, 8) - torch.eye(8)
    changes = [(loss(row) - dense).item() for row in removed]
    ablation = ablate_channels(network, [(x, y)])
    np.testing.assert_allclose(ablation.loss["a"].sum(1), changes, rtol=1e-3, atol=1e-6)
    for criterion in ("fisher", "obd", "apoz", "fluctuation"):
        sec.score(network, criterion, data=[(x, y)])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


class Masked(nn.Module):
    """Places that are filled up do not count; a mask of whole numbers says which."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, mask):
        left_out = ~mask.to(torch.bool)
        h = self.a(x).relu().masked_fill(left_out[..., None], 0)
        return self.b(h).sum(1) / mask.to(torch.float32).sum(1, keepdim=True)


@pytest.mark.parametrize("criterion", ["taylor", "mean_activation"])
def test_a_mask_of_whole_numbers_counts_as_one_of_truth_values(criterion):
    """Only its type changes on the way, which is no operation of the trace; 1 inverted is -2."""
    torch.manual_seed(0)
    model = Masked().eval()
    x, labels = torch.randn(8, 5, 4), torch.arange(8) % 3
    mask = torch.arange(5).expand(8, 5) < torch.tensor([3, 4] * 4)[:, None]
    scores = [
        sec.score(sec.trace(model, (x, m)), criterion, data=[((x, m), labels)])["a"]
        for m in (mask, mask.long())
    ]
    assert scores[1] == pytest.approx(scores[0])


def test_a_mask_of_whole_numbers_can_be_calibrated_with():
    torch.manual_seed(0)
    model = Masked().eval()
    x, mask = torch.randn(80, 5, 4), torch.ones(80, 5, dtype=torch.long)
    mask[::2, 3:] = 0
    example = (x[:2], mask[:2])
    made = [
        sec.prune(model, example, sec.Budget(channels=0.5), calibration=(x, m), output="relative")
        for m in (mask, mask.bool())
    ]
    assert made[0].cut == made[1].cut
    fidelity = [one.report.fidelity.fidelity.distance for one in made]
    assert fidelity[0] == pytest.approx(fidelity[1])
    assert fidelity[0] < 1


class Deep(nn.Module):
    """Tells how many of its own values are alive when it ends."""

    def __init__(self, tell):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(10)])
        self.tell = tell

    def forward(self, x):
        made = []
        for layer in self.layers:
            x = layer(x).relu()
            made.append(weakref.ref(x))
        self.tell(sum(ref() is not None for ref in made))
        return x


@pytest.mark.parametrize(("values", "alive"), [(True, 10), (False, 1)])
def test_a_tape_without_values_keeps_none_alive(values, alive):
    counts = []
    model = Deep(counts.append).eval()
    network = sec.trace(model, torch.rand(2, 8))
    source = source_of(network)
    with torch.no_grad():
        tape = record(model, source.operations, (torch.rand(3, 8),), {}, values=values)
    assert counts[-1] == alive
    assert {tuple(value.shape) for value in tape.values.values()} == {(3, 8)}


class MakesConstants(Base):
    """Some of them where a value lay that nobody needs any more."""

    def forward(self, x):
        for factor in range(1, 6):
            h = self.a(x)
            x = h[:, :4].relu()
            del h
            x = x * torch.full((4,), float(factor))
        return self.b(self.a(x))


@pytest.mark.parametrize("kind", [*WRITERS, Masked, MakesConstants])
def test_a_tape_without_values_has_the_same_steps(kind):
    torch.manual_seed(2)
    model = kind().eval()
    x = (torch.rand(4, 5, 4), torch.ones(4, 5).long()) if kind is Masked else (torch.rand(4, 4),)
    source = source_of(sec.trace(model, x if kind is Masked else x[0]))
    with torch.no_grad():
        kept, light = (
            record(source.to_run(), source.operations, x, {}, values=values)
            for values in (True, False)
        )
    assert [sources(step) for step in light.steps] == [sources(step) for step in kept.steps]
    assert light.resumable == kept.resumable
    assert light.depending_on_inputs() == kept.depending_on_inputs()
    for ref, value in kept.values.items():
        assert light.values[ref].shape == value.shape, ref
        assert light.values[ref].dtype == value.dtype, ref


def sources(step):
    """A step, with tensors of the model by what they are and not by what they hold."""
    return step.number, step.function, step.mutates, step.results, [str(r) for r in step.reads]
