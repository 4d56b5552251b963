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
