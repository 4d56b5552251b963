import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.training.feed import ArrayFeed, ArrayPair
from secateurs.training.feed_learner import FeedLearner, rebuild
from secateurs.training.learner import Snapshot


class Small(FeedLearner):
    """A learner of which only the part without a framework is there."""

    def __init__(self, model):
        pair = ArrayPair(np.arange(10, dtype=np.float32)[:, None], np.arange(10) % 2)
        self._model = model
        self._train_feed = ArrayFeed(pair, 4)
        self._feeds = {"validation": ArrayFeed(pair, 3)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


def test_batches_are_counted_as_they_are_trained_on_and_evaluated():
    learner = Small(network())
    assert learner.batches_an_epoch == 2  # two whole ones of four
    assert learner.batches_of("validation") == 4  # every image is evaluated
    assert not learner.has_test
    (images, labels), *rest = learner.calibration(1)
    assert (images.ravel().tolist(), labels.tolist(), rest) == ([0, 1, 2, 3], [0, 1, 0, 1], [])
    assert not learner.cut


def test_a_snapshot_of_a_cut_model_is_rebuilt_from_where_training_began():
    origin = network()
    once = sec.delete_channels(origin, {"0": [1]}, torch.zeros(1, 3))
    twice = sec.delete_channels(once, {"0": [0, 4]}, torch.zeros(1, 3))
    snapshot = Snapshot(dict(twice.state_dict()), sec.report_of(twice).cut)
    filled = []

    def fill_(model, tensors):
        filled.append({name: tuple(value.shape) for name, value in tensors.items()})
        model.load_state_dict(tensors)

    for start in (origin, once):  # one that was cut before training began, too
        model = rebuild(start, snapshot, cut_copy, fill_)
        assert model[0].weight.shape == (3, 3)
        assert torch.equal(model[0].weight, twice[0].weight)
        assert sec.report_of(model).cut == snapshot.cut
    assert filled[0]["0.weight"] == (3, 3)
    assert len(Small(model).cut.channels["0"].removed) == 3
