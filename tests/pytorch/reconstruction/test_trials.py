import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.planning.error_curves import GroupTrial
from secateurs.pytorch.reconstruction import judge_trials


class Named(nn.Module):
    """Gives a dictionary, as models of Transformers do."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return {"logits": self.head(self.inner(x).relu())}


@pytest.mark.parametrize("read", [lambda o: o.logits, lambda o: o["logits"], lambda o: o[0]])
def test_a_loss_reads_named_outputs_by_name_attribute_and_place(read):
    torch.manual_seed(0)
    model, x = Named().eval(), torch.randn(8, 4)
    network = sec.trace(model, x)
    (group,) = (g for g in network.groups if len(g) == 6)
    trial = GroupTrial(group.name, 3, group.channels[:3], (), dict)

    def loss(outputs, labels):
        return read(outputs)[:, 0] * labels

    labels = np.arange(8, dtype=np.float32)
    batch = CalibrationBatch(x.numpy(), labels)
    (found,) = judge_trials(network, batch, [trial], "loss", loss=loss)
    with torch.no_grad():
        hidden = model.inner(x).relu()
        masked = hidden.clone()
        masked[:, :3] = 0
        change = (model.head(masked) - model.head(hidden))[:, 0].numpy() * labels
    assert found.distance == pytest.approx(change.mean(), abs=1e-6)


X = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")


def test_a_trial_gives_the_outputs_of_the_cut_and_changed_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    network = sec.trace(model, torch.from_numpy(X[:2]))
    (group,) = network.groups
    w, b, v, c = (one.detach().numpy().copy() for one in model.parameters())
    removed = np.asarray(group.channels)[[0, 4]]
    trials = [
        GroupTrial("0", 6, removed[:0], (), dict),
        GroupTrial("0", 4, removed, (), dict),
        GroupTrial("0", 4, removed, ("2.weight",), lambda: {"2.weight": 2 * v}),
    ]
    found = judge_trials(network, CalibrationBatch(X, None), trials, "relative")
    hidden = np.maximum(X @ w.T + b, 0)
    dense = hidden @ v.T + c
    hidden[:, [0, 4]] = 0
    spread = np.square(dense - dense.mean(axis=0)).sum(axis=1).mean()
    for one, answers in zip(found, (dense, hidden @ v.T + c, hidden @ (2 * v.T) + c), strict=True):
        expected = np.square(answers - dense).sum(axis=1).mean() / spread
        assert np.isclose(one.distance, expected, rtol=1e-3, atol=1e-9)
    assert np.array_equal(model[2].weight.detach().numpy(), v)
