"""Models that return scores and a loss by name, as Transformers models do."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec

torch.manual_seed(0)
TOKENS = torch.randint(1, 11, (16, 6))
LABELS = torch.arange(16) % 3
NAMED = {"input_ids": TOKENS, "labels": LABELS}


@dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Classifier(nn.Module):
    """Gives its loss, of all examples together, where it is shown labels."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(11, 8), nn.Linear(8, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, input_ids, labels=None):
        logits = self.head(torch.relu(self.hidden(self.embedding(input_ids).mean(1))))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Answer(logits, loss)


class Unaware(Classifier):
    def forward(self, input_ids):
        return super().forward(input_ids).logits


TRAINING = sec.Training(batches=2, fine_tune_batches=2, batch_size=8)
STOP = sec.Stop(rounds=1, tolerance=None)


@pytest.mark.parametrize(
    "data", [NAMED, [NAMED], ({"input_ids": TOKENS}, LABELS)], ids=["whole", "batches", "pair"]
)
def test_the_loop_takes_the_models_own_loss(data):
    found = sec.iterate(Classifier(), data, data, step=0.25, training=TRAINING, stop=STOP)
    assert found.history.last("dense")["metric"]["name"] == "loss"
    with torch.no_grad():
        loss = found.model(**NAMED).loss
    assert found.history.last("stop")["value"] == pytest.approx(float(loss), rel=1e-5)


def test_classes_beside_inputs_by_name_are_classified_where_the_model_knows_no_labels():
    found = sec.iterate(Unaware(), NAMED, NAMED, step=0.25, training=TRAINING, stop=STOP)
    with torch.no_grad():
        right = (found.model(TOKENS).argmax(1) == LABELS).float().mean()
    assert found.history.last("stop")["accuracy"] == pytest.approx(float(right))


def test_a_comparison_takes_it_too(tmp_path):
    found = sec.compare(
        Classifier(), NAMED, NAMED, strategies="l1", amounts=0.25, seeds=1, directory=tmp_path,
        training=TRAINING,
    )  # fmt: skip
    assert found.metric.name == "loss"


def test_labels_among_the_example_inputs_do_no_harm():
    model = Classifier().eval()
    with pytest.warns(UserWarning, match="few"):
        pruned = sec.prune(model, NAMED, "params=0.7", calibration=NAMED).model
    with pytest.warns(UserWarning, match="few"):
        found = sec.frontier(model, NAMED, calibration=NAMED, shares=0.6)
    assert pruned(TOKENS).logits.shape == (16, 3)
    assert len(found.points) == 2
    cut = sec.trace(model, {"input_ids": TOKENS[:1]}).cut({"hidden": [0, 3]})
    small = sec.apply(model, cut, {"input_ids": TOKENS[:1]})
    with pytest.warns(UserWarning, match="few"):
        better = sec.repair(small, model, NAMED)
    assert better.hidden.out_features == 10


def test_criteria_in_prune_read_scores_by_name():
    model = Classifier().eval()
    network = sec.trace(model, {"input_ids": TOKENS[:1]})
    plain = sec.trace(unaware_of(model), {"input_ids": TOKENS[:1]})
    mine = sec.score(network, "taylor", data=[({"input_ids": TOKENS}, LABELS)])
    theirs = sec.score(plain, "taylor", data=[({"input_ids": TOKENS}, LABELS)])
    assert np.allclose(mine["hidden"], theirs["hidden"], rtol=1e-5)
    by_name = ({"input_ids": TOKENS}, LABELS)
    with pytest.warns(UserWarning, match="few"):
        judged = sec.prune(model, NAMED, "drop=0.5", calibration=NAMED, validation=by_name)
    assert judged.trials


def unaware_of(model):
    twin = Unaware()
    twin.load_state_dict(model.state_dict())
    return twin.eval()
