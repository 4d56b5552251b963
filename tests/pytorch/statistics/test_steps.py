"""Losses that take the model: detectors, models that return their loss, users' steps."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from support.detectors import batches, detector, overlap, own_loss, ssd

# Pooling of boxes in Python is compiled by what PyTorch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def test_sensitivity_of_a_detector_by_its_own_loss_and_a_metric_of_boxes():
    model, network = detector(ssd)
    data = batches(2)
    found = sec.sensitivity(network, data, task="detection", metric=overlap, amounts=(0.5,))
    with torch.no_grad():
        by_hand = torch.cat([overlap(model(images), targets) for images, targets in data])
    name = network.groups[0].name
    assert found.accuracies[name][0] == pytest.approx(float(by_hand.mean()), abs=1e-6)
    lost = [
        own_loss(copy.deepcopy(model), *pair)
        for images, targets in data
        for pair in zip(images, targets, strict=True)
    ]
    assert found.losses[name][0] == pytest.approx(np.mean(lost), rel=1e-5)
    assert "at 50 %" in str(found)
    assert "75 %" not in str(found)


class Tagger(nn.Module):
    """Gives its own loss for a dictionary with labels, as models of Transformers do."""

    def __init__(self):
        super().__init__()
        self.embed, self.hidden = nn.Embedding(12, 8), nn.Linear(8, 16)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(16, 3)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.drop(torch.relu(self.hidden(self.embed(input_ids)))))
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits} if labels is not None else {"logits": logits}


def build_tagger():
    torch.manual_seed(0)
    ids = torch.randint(0, 12, (8, 5))
    return [{"input_ids": part, "labels": part % 3} for part in ids.split(4)]


def test_a_dictionary_with_labels_goes_by_the_models_own_loss():
    torch.manual_seed(1)
    model, data = Tagger().eval(), build_tagger()
    network = sec.trace(model, {"input_ids": data[0]["input_ids"][:1]})
    scores = sec.score(network, "taylor", data=data)

    def by_logits(outputs, labels):
        losses = F.cross_entropy(outputs["logits"].transpose(1, 2), labels, reduction="none")
        return losses.mean(1)

    pairs = [({"input_ids": one["input_ids"]}, one["labels"]) for one in data]
    expected = sec.score(network, "taylor", data=pairs, loss=by_logits)
    (name,) = [group.name for group in network.groups if group.name == "hidden"]
    assert scores[name] == pytest.approx(expected[name], rel=1e-5)
    removed = sec.ablate(network, data)
    assert removed.estimate[name] == pytest.approx(
        sec.ablate(network, pairs, loss=by_logits).estimate[name], abs=1e-6
    )


def test_a_step_of_the_users_and_targets_in_dictionaries():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    images = torch.randn(6, 6)
    targets = [{"value": torch.randn(2)} for _ in range(6)]
    network = sec.trace(model, images[:1])

    def step(model, batch):
        given, wanted = batch
        return (model(given) - torch.stack([one["value"] for one in wanted])).square().mean()

    def plain(outputs, wanted):
        return (outputs - wanted).square().mean(1)

    task = sec.LearningTask("mine", train_step=step)
    found = sec.score(network, "taylor", data=[(images, targets)], task=task)
    rows = torch.stack([one["value"] for one in targets])
    expected = sec.score(network, "taylor", data=(images, rows), loss=plain)
    assert found["0"] == pytest.approx(expected["0"], rel=1e-5)

    def of_dictionaries(outputs, wanted):
        return plain(outputs, torch.stack([one["value"] for one in wanted]))

    by_loss = sec.score(network, "taylor", data=[(images, targets)], loss=of_dictionaries)
    assert by_loss["0"] == pytest.approx(expected["0"], rel=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "received no batch"),
        ([([], [])], "expected examples"),
        ([(1, 2)], "step of detection on one example"),
        (5.0, "expected calibration data"),
        (None, "expected calibration data"),
        ({"x": 1}, "expected batches, or arrays"),
    ],
)
def test_unsupported_detector_inputs_are_refused(data, message):
    _, network = detector(ssd)
    with pytest.raises(sec.SecateursError, match=message) as error:
        sec.score(network, "taylor", data=data, task="detection")
    assert "\n" not in str(error.value)


def test_no_gradient_flows_where_a_step_disables_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    images = torch.randn(4, 6)

    def step(model, batch):
        outputs = model(batch)
        with torch.no_grad():
            aim = outputs.square()
        return (outputs * outputs.detach() * aim).sum()

    def plain(outputs, rows):
        return (outputs * rows).sum(1)

    network = sec.trace(model, images[:1])
    with torch.no_grad():
        rows = model(images) ** 3
    task = sec.LearningTask("mine", train_step=step)
    found = sec.score(network, "taylor", data=[images], task=task)
    assert found["0"] == pytest.approx(
        sec.score(network, "taylor", data=(images, rows), loss=plain)["0"], rel=1e-5
    )
