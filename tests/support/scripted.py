"""A learner with scripted accuracies, for tests of the loop's decisions."""

import itertools

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.peers import ALONE
from secateurs.channels.proof import keep_report_
from secateurs.measurement.speed import SpeedComparison
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.trace_model import trace
from secateurs.settings.pruning import Pruning
from secateurs.settings.study import Configuration, Stop, Task
from secateurs.settings.training import Training
from secateurs.study.checkpoints import InMemoryStore
from secateurs.study.loop import Loop
from secateurs.training.learner import Evaluation, Snapshot
from secateurs.training.metric import Metric


class Scripted:
    """Two hidden layers. "Training" counts batches in the output's bias; nothing is learned.

    ``accuracy(round, batch)`` says how well it does on the validation data; the round is counted by
    cuts, the batch by training since the last of them.
    """

    is_main = True
    peers = ALONE
    batches_an_epoch = 10
    metric = Metric()
    loss = None
    has_test = True

    def __init__(self, accuracy, widths=(20, 20)):
        sizes = (3, *widths, 2)
        layers = [nn.Linear(i, o) for i, o in itertools.pairwise(sizes)]
        self.origin = nn.Sequential(*itertools.chain(*((layer, nn.ReLU()) for layer in layers)))
        with torch.no_grad():
            self.origin[-2].bias.zero_()
        self.model = cut_copy(self.origin, sec.Cut())
        self.accuracy = accuracy
        self.done = 0
        self.round = self.latest = 0
        self.log = []

    @property
    def cut(self):
        return sec.report_of(self.model).cut

    @property
    def batches_trained(self):
        """Batches that the present values have been through."""
        return int(self.model[-2].bias[0])

    def agree(self, decide):
        return decide()

    def wait(self):
        pass

    def trace(self):
        return trace(self.model, torch.zeros(1, 3))

    def calibration(self, batches):
        return [(np.zeros((1, 3), np.float32), np.zeros(1, np.int64))] * batches

    def train(self, first, rates, tick):
        self.log.append(("train", first, list(rates)))
        self.done += len(rates)
        with torch.no_grad():
            self.model[-2].bias += len(rates)
        for _ in rates:
            tick()
        return 0.5

    def batches_of(self, part):
        return 1

    def evaluate(self, part, tick, averaged=False):
        self.log.append(("evaluate", part))
        tick()
        return Evaluation(self.accuracy(self.round, self.done), 1.0)

    def apply(self, cut, network=None):
        options = {"network": network} if network else {"proof": False}
        self.model = sec.apply(self.model, cut, torch.zeros(1, 3), **options)
        self.latest += network is not None  # without proof it is a rewound model that is cut
        self.round, self.done = self.latest, 0
        return sec.report_of(self.model)

    def snapshot(self):
        tensors = {name: value.clone() for name, value in self.model.state_dict().items()}
        return Snapshot(tensors, self.cut, {}, {"round": self.round, "done": self.done})

    def restore(self, snapshot):
        self.log.append(("restore", int(snapshot.tensors["4.bias"][0])))
        self.model = cut_copy(self.origin, snapshot.cut)
        self.model.load_state_dict(snapshot.tensors)
        if snapshot.cut:
            keep_report_(self.model, sec.CutReport(snapshot.cut))
        if snapshot.settings:
            self.round, self.done = snapshot.settings["round"], snapshot.settings["done"]
            self.latest = self.round or self.latest

    def release(self):
        return self.model

    def speed(self, dense):
        return SpeedComparison(2.0, 2.0, 1.0, 1.0, 1.0, 1, "cpu", 1)


class Recorded(InMemoryStore):
    """A store that remembers every checkpoint, and can be taken back to one."""

    def __init__(self):
        super().__init__()
        self.checkpoints = []
        self._from = None

    def checkpoint(self, position, present, best):
        kept = dict(self._kept)
        self.checkpoints.append((position, present(), best, len(self.history), kept))

    def resume(self):
        return self._from

    def back_to(self, number):
        position, present, best, records, kept = self.checkpoints[number]
        earlier = Recorded()
        earlier._history = self.history[:records]
        earlier._kept = dict(kept)
        earlier._from = position, present, best
        return earlier


def run(learner, store=None, *, training=(), pruning=(), stop=(), watcher=None, criterion="l1"):
    """(position, store) at the end of a study."""
    configuration = Configuration(
        task=Task(model="scripted", data="none"),
        training=Training(**{"batches": 20, "fine_tune_batches": 20} | dict(training)),
        pruning=Pruning(**{"measure_speed": False} | dict(pruning)),
        stop=Stop(**dict(stop)),
    )
    store = store or Recorded()
    loop = Loop(learner, store, configuration, criterion, watcher or sec.Watcher())
    return loop.run(), store
