"""A loop that repairs each cut before it fine-tunes."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import secateurs as sec
from secateurs.study.round_cutter import repairs

X, Y = load_digits(return_X_y=True)
X, Y = (X.reshape(-1, 1, 8, 8) / 8 - 0.6).astype(np.float32), Y.astype(np.int64)
TRAIN, VALIDATION = (X[:1200], Y[:1200]), (X[1200:], Y[1200:])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def after_cuts(**pruning):
    """Validation accuracy just after each cut of a study without fine-tuning to speak of."""
    torch.manual_seed(0)
    result = sec.iterate(
        Net(),
        TRAIN,
        VALIDATION,
        step=0.3,
        training=sec.Training(
            batches=200, batch_size=64, optimizer="adamw", learning_rate=5e-3, fine_tune_batches=1
        ),
        stop=sec.Stop(rounds=2, tolerance=None),
        measure_speed=False,
        calibration_batches=6,
        **pruning,
    )
    return [record["accuracy"] for record in result.history.of("prune")]


def test_a_repaired_cut_needs_less_training():
    repaired, dropped = after_cuts(repair=True), after_cuts()
    assert repaired[0] > dropped[0] + 0.2


def test_with_rewound_weights_nothing_is_repaired():
    assert not repairs(sec.Pruning())
    assert not repairs(sec.Pruning(repair=True, rewind="weights"))
    assert repairs(sec.Pruning(repair=True))
