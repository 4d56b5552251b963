"""Named outputs: in freeze reasons, and selected with ``outputs=``."""

import copy
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.pytorch.model.outputs import DropUnused, named_outputs

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
Both = namedtuple("Both", "logits hidden")


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor


class Net(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 8), nn.Linear(8, 3)
        self.give = give

    def forward(self, x):
        features = self.a(x).relu()
        hidden = self.b(features).relu()
        return self.give(self.c(hidden), features, hidden)


def net(give):
    torch.manual_seed(0)
    return Net(give).eval()


def answers(logits, features, hidden):
    return {"logits": logits, "inner": {"features": features}, "all": [features, hidden]}


def test_names_are_keys_fields_and_places():
    values = {"a": torch.ones(1), "b": [torch.ones(1), Both(torch.ones(1), torch.ones(2))], "c": 3}
    assert [name for name, _ in named_outputs(values)] == ["a", "b.0", "b.1.logits", "b.1.hidden"]
    assert [name for name, _ in named_outputs(Answer(torch.ones(1), torch.ones(1)))] == [
        "logits",
        "hidden",
    ]
    assert [name for name, _ in named_outputs(torch.ones(1))] == [""]


@pytest.mark.parametrize(
    ("give", "expected"),
    [
        (lambda logits, f, h: {"logits": logits, "features": f}, {"a": "features", "c": "logits"}),
        (lambda logits, f, h: (logits, f, h), {"a": "1", "b": "2", "c": "0"}),
        (lambda logits, f, h: Both(logits, h), {"b": "hidden", "c": "logits"}),
        (lambda logits, f, h: Answer(logits, h), {"b": "hidden", "c": "logits"}),
        (answers, {"a": "inner.features", "b": "all.1"}),
    ],
)
def test_the_reason_says_which_output(give, expected):
    network = sec.trace(net(give), X)
    reasons = {frozen.name: frozen.reasons for frozen in network.frozen}
    for layer, output in expected.items():
        assert f"it is the network's output {output!r}" in reasons[layer]


def test_channels_of_unused_outputs_can_be_removed():
    model = net(answers)
    small = sec.delete_channels(model, {"a": [0, 3], "b": [7]}, X, outputs="logits")
    assert [layer.out_features for layer in (small.a, small.b, small.c)] == [14, 7, 3]
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.b.weight[:, [0, 3]] = 0
        dense.c.weight[:, 7] = 0
        assert torch.allclose(small(X)["logits"], dense(X)["logits"], atol=1e-6)
        assert small(X)["inner"]["features"].shape == (2, 14)


def test_a_part_of_an_output_and_several_may_be_named():
    network = sec.trace(net(answers), X, outputs=["logits", "all"])
    assert not network.groups
    network = sec.trace(net(answers), X, outputs=["logits", "all.1"])
    assert [group.name for group in network.groups] == ["a"]
    for place in (0, np.int64(0)):
        network = sec.trace(net(lambda logits, f, h: (logits, f)), X, outputs=place)
        assert [group.name for group in network.groups] == ["a", "b"]
    pruned = sec.prune(net(answers), X, sec.Budget(channels=0.5), outputs="logits")
    assert (pruned.model.a.out_features, pruned.model.b.out_features) == (8, 4)


@pytest.mark.parametrize(
    ("give", "used", "kept"),
    [
        (answers, ("logits", "all.1"), {"logits": 0, "inner": {}, "all": [None, 2]}),
        (lambda s, f, h: (s, f, h), ("2",), (None, None, 2)),
        (lambda s, f, h: Both(s, h), ("logits",), Both(0, None)),
        (lambda s, f, h: Answer(s, h), ("hidden",), Answer(None, 2)),
        (lambda s, f, h: s, ("0",), None),
    ],
)
def test_unused_outputs_keep_their_position(give, used, kept):
    """Numbers stand for the three tensors."""
    tensors = [torch.full((1,), float(number)) for number in range(3)]

    def as_numbers(value):
        if isinstance(value, torch.Tensor):
            return int(value)
        if isinstance(value, dict):
            return {key: as_numbers(item) for key, item in value.items()}
        if isinstance(value, Both):
            return Both(*map(as_numbers, value))
        if isinstance(value, (list, tuple)):
            return type(value)(map(as_numbers, value))
        return Answer(as_numbers(value.logits), as_numbers(value.hidden)) if value else value

    assert as_numbers(DropUnused(used)(None, None, give(*tensors))) == kept


def test_with_images_only_what_is_used_is_fitted_and_judged():
    images = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    model = net(answers)
    result = sec.prune(model, X, sec.Budget(channels=0.5), outputs="logits", calibration=images)
    small = result.model
    assert small.a.out_features < 16  # whose values are an output that is not used
    assert result.report.fidelity.stages[-1].fidelity.kind == "categorical"  # of one output
    # Against the same network without the others.
    plain = sec.prune(
        net(lambda logits, f, h: logits), X, sec.Budget(channels=0.5), calibration=images
    )
    with torch.no_grad():
        assert torch.allclose(small(X)["logits"], plain.model(X), atol=1e-5)


def test_an_output_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(sec.UnknownNameError, match=r"none named .logit.*logits"):
        sec.trace(net(answers), X, outputs="logit")


class Trained(nn.Module):
    """An auxiliary head that only training uses."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 6)

    def forward(self, x):
        h = self.a(x)
        return {"logits": self.b(h), "aux": self.aux(h)} if self.training else {"logits": self.b(h)}


def test_an_output_of_training_alone_says_so():
    network = sec.trace(Trained().eval(), X)
    reasons = {frozen.name: frozen.reasons for frozen in network.frozen}
    assert reasons["aux"] == ("it is the network's output 'aux' in train mode",)
    assert reasons["b"] == ("it is the network's output 'logits'",)


class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.slope, self.b = nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 1, 1)
        self.spare = nn.PReLU()

    def forward(self, x):
        return self.b(self.slope(self.a(x)))


def test_unread_outputs_are_reported_as_never_read():
    network = sec.trace(Lengths().eval(), torch.rand(1, 3, 8, 8))
    never = network.frozen_for["the forward pass never reads it"]
    assert [one.name for one in never] == ["spare"]


def test_keras_models_are_refused_outputs_with_the_remedy():
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(sec.ModelError, match=r"keras\.Model\(model\.inputs"):
        sec.trace(model, outputs="logits")


def test_a_cut_is_applied_for_the_outputs_that_are_used():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = model, torch.nn.Linear(8, 3)

        def forward(self, x):
            hidden = self.body(x)
            return {"logits": self.head(hidden), "hidden": hidden}

    two, x = Two().eval(), torch.rand(2, 4)
    network = sec.trace(two, x, outputs="logits")
    cut = sec.plan(network, sec.score(network), amount=0.5)
    del network
    small = sec.apply(two, cut, x, outputs="logits")
    assert small.body[0].out_features == 4
    assert sec.report_of(small).proof.holds
    with pytest.raises(sec.SecateursError):
        sec.apply(two, cut, x, outputs=["hidden"])
