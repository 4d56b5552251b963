"""A race by hand: the effect of removing every channel on every image is known."""

from types import SimpleNamespace

import numpy as np

from secateurs.calibration.racing import Race


class Group:
    def __init__(self, name, channels):
        self.name, self.channels = name, np.array(channels)

    def __len__(self):
        return len(self.channels)


class Removing:
    """Knows what removing every channel does to every image, and writes down what is asked."""

    def __init__(self, gates, truth=None, losses=None, cost_per_image=None, in_steps=True):
        self.gates = np.asarray(gates, np.float64)
        self.truth = np.zeros_like(self.gates) if truth is None else np.asarray(truth)
        self.all_losses = losses
        self.prices = cost_per_image or {}
        self.in_steps = in_steps
        self.asked = []
        self.runs = []

    def dense(self, part):
        self.runs.append(part)
        losses = np.zeros(len(part)) if self.all_losses is None else self.all_losses[part]
        classes = 0 if self.all_losses is None else 2
        labels = np.zeros(len(part), np.int64)
        return SimpleNamespace(
            part=part, losses=losses, labels=labels, right=np.ones(len(part)), classes=classes
        )

    def slopes(self, dense):
        nobody = np.full((len(dense.part), 1), 99.0)
        return np.hstack([nobody, self.gates.T[dense.part]])

    def ablate(self, dense, group, channels, where):
        columns = group.channels[channels] - 1
        self.asked.append((dense.part, columns, where))
        loss = np.where(where, self.truth[columns][:, dense.part], np.nan)  # the rest means nothing
        return SimpleNamespace(loss=loss, right=np.zeros(where.shape))

    def supports_subsets(self, group):
        return self.in_steps

    def cost_per_image(self, group):
        return self.prices.get(group.name, 1.0)


def race(removing, *, share=0.5, scope="network", confidence=0.95, parts=1, first=2):
    """Two groups: the first two channels, and the others. Atom 0 is nobody's."""
    channels, images = removing.gates.shape
    groups = [Group("a", range(1, first + 1)), Group("b", range(first + 1, channels + 1))]
    network = SimpleNamespace(groups=[group for group in groups if len(group)])
    rows = np.array_split(np.arange(images), parts)
    return Race(network, removing, rows, share, scope, confidence)


def alike(bends, slopes=None, **options):
    """A race in which every image forecasts the same: these slopes and bends."""
    found = race(Removing(np.sqrt(2 * np.array(bends, float))[:, None] * np.ones(8)), **options)
    left = np.array([1, 7 / 8, 5 / 8, 3 / 8, 0])
    np.testing.assert_allclose(found.forecasts.bend, np.outer(bends, left), rtol=1e-6)
    found.forecasts.slope[:] = np.outer(np.zeros(len(bends)) if slopes is None else slopes, left)
    return found


def learn(found, step, share=0.9):
    return found.forecasts.learn_after(step, share, *found.forecasts.surprises())
