"""The last layers before values decide, of models by users."""

import pytest
import torch
from torch import nn

import secateurs as sec
from support.repaired_detectors import make, relative_error

# Pooling of boxes in Python is compiled by what PyTorch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*calibration images are few"),
]


class Chooser(nn.Module):
    """A user's own detector: a batch in, lists of the surest boxes out."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 24, 3, 2, 1)
        )
        self.more = nn.Conv2d(24, 24, 3, 1, 1)
        self.boxes, self.scores = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 1, 1)

    def compute(self, x):
        x = torch.relu(self.body(x))
        x = x + torch.relu(self.more(x))
        return self.boxes(x), self.scores(x)

    def forward(self, x):
        boxes, scores = (part.flatten(2).transpose(1, 2) for part in self.compute(x))
        pairs = zip(boxes.exp(), scores.sigmoid()[..., 0], strict=True)
        return [box[score > 0.5] for box, score in pairs]


def test_a_users_own_detector_is_repaired_towards_what_it_chooses_from():
    model, images = make(Chooser), torch.rand(96, 3, 24, 24)
    others = torch.rand(24, 3, 24, 24)
    budget = sec.Budget(macs=0.5)
    made = sec.prune(model, images[:1], budget, calibration=images, second_domain=others)
    assert made.report.fidelity.last_layers == ("boxes", "scores")
    with torch.no_grad():
        right = model.compute(others)
        by_hand = relative_error(right, made.model.compute(others))
        dropped = sec.prune(model, images[:1], budget, calibration=images, repair=False).model
        without = relative_error(right, dropped.compute(others))
    assert made.report.fidelity.second_domain.distance == pytest.approx(by_hand, rel=1e-3)
    assert by_hand < 0.5 * without


class Routed(nn.Module):
    """Layers run on what values chose, and all outputs have a row for each image."""

    def __init__(self):
        super().__init__()
        self.first, self.expert = nn.Linear(6, 16), nn.Linear(16, 16)
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        chosen = (x[:, 0] > 0).nonzero()[:, 0]
        x = x.index_add(0, chosen, torch.relu(self.expert(x[chosen])))
        return self.last(x)


def test_a_model_whose_layers_run_after_a_decision_is_compared_by_its_outputs():
    torch.manual_seed(0)
    model = Routed().eval()
    with torch.no_grad():
        model.first.bias[0] = 10.0  # every image is chosen
    images = torch.rand(96, 6)
    made = sec.prune(model, images[:2], sec.Budget(macs=0.6), calibration=images)
    assert made.report.fidelity.last_layers == ()
    assert "Compared were not" not in str(made.report)


class Bare(nn.Module):
    """Weights of no layer's, and as many outputs as values decide."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(3, 16))

    def forward(self, x):
        scores = torch.relu(x @ self.first.T) @ self.last.T
        return scores[scores > 0]


def test_outputs_that_cannot_be_compared_are_told_in_one_line():
    torch.manual_seed(0)
    images = torch.randn(96, 6)
    with pytest.raises(sec.DataError, match=r"expected outputs with a row for each") as caught:
        sec.prune(Bare().eval(), images[:2], sec.Budget(macs=0.6), calibration=images)
    assert "\n" not in str(caught.value)
