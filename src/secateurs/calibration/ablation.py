"""Change of the loss when each channel is removed, one at a time, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs import formatting
from secateurs.arguments import instance
from secateurs.calibration.judging import check_finite_losses
from secateurs.calibration.peers import Peers
from secateurs.channels.arrays import Sums
from secateurs.channels.equations import Ids
from secateurs.channels.network import Network
from secateurs.errors import DataError, SecateursError
from secateurs.formatting import percent

ChannelValues = NDArray[Any]


@dataclass(frozen=True, eq=False, slots=True)
class Ablation:
    """Change of the loss and the accuracy when each channel alone is removed.

    A channel is removed as a cut removes it: its values count as zero wherever they are read.
    Arrays over channels are stored by group name.

    Attributes:
        loss: change of the loss, summed over the images of each class that the channel was removed
            on, shape (channels, classes).
        correct: change of the number of correctly classified images, shape (channels, classes).
        images: number of images of each class, shape (classes,). Without labels that are classes,
            all images are one class.
        dense_loss: mean loss of the dense model.
        dense_correct: number of images of each class that it classifies correctly, shape
            (classes,).
        seen: number of images that each channel was removed on, shape (channels,); all images in
            exact mode.
        estimate: mean change of the loss over all images, shape (channels,). In exact mode it
            follows from ``loss``; in racing mode it is an estimate from the images seen.
        error: half-width of its confidence interval; 0 where all images were seen. The error of
            forecasts is learned from removed channels of the same group, and where these are few,
            of all groups.
        lowest: in racing mode, the channels found to be among the lowest; {} in exact mode.
        confidence: requested confidence of the intervals and of ``lowest``, in racing mode.
        classified: whether ``loss`` and ``correct`` are by class.
        spent: share of all (channel, image) pairs that were evaluated.
    """

    loss: Mapping[str, Sums]
    correct: Mapping[str, Sums]
    images: Ids
    dense_loss: float
    dense_correct: Ids
    seen: Mapping[str, Ids]
    estimate: Mapping[str, Sums]
    error: Mapping[str, Sums]
    lowest: Mapping[str, Ids] = field(default_factory=dict)
    confidence: float = 1.0
    classified: bool = True
    spent: float = 1.0

    def __str__(self) -> str:
        rows = [self._row(name) for name in self.estimate]
        last = "among the lowest" if self.lowest else "missed by some class"
        columns: tuple[str, ...] = (
            *("group", "channels", "better without", "largest rise of the loss", last),
        )
        columns = columns if self.lowest or self.classified else columns[:-1]
        text = f"{int(self.images.sum())} images; loss {self.dense_loss:.3f}"
        if self.lowest:
            spent = percent(self.spent)
            text += f"; {spent} of all removals, channel by channel and image by image, were done"
        return f"{formatting.table(columns, rows, right=range(1, len(columns)))}\n\n{text}"

    def _row(self, group: str) -> list[str]:
        change = self.estimate[group]
        cells = [group, f"{len(change)}", f"{int((change <= 0).sum())}", f"{change.max():.3f}"]
        if self.lowest:
            return [*cells, f"{len(self.lowest[group])}"]
        if self.classified:
            missed = (self.accuracy_loss(group) > 0).any(axis=1)
            return [*cells, f"{int(missed.sum())}"]
        return cells

    @property
    def exact(self) -> bool:
        """Whether every channel was removed on every image."""
        return all((seen == self.images.sum()).all() for seen in self.seen.values())

    def total_over(self, peers: Peers) -> Ablation:
        """The ablation over the images of all processes, each of which ablated exactly."""
        names = list(self.loss)
        each = [self.loss, self.correct, self.seen]
        *totals, images, dense_loss, dense_correct = peers.total(
            [
                *(values[name] for values in each for name in names),
                self.images,
                np.array(self.dense_loss * self.images.sum()),
                self.dense_correct,
            ]
        )
        of_names = (totals[start :: len(names)] for start in range(len(names)))
        found = dict(zip(names, of_names, strict=True))
        loss, correct, seen = ({name: found[name][n] for name in names} for n in range(3))
        return replace(
            self,
            loss=loss,
            correct=correct,
            images=images.astype(np.int64),
            dense_loss=float(dense_loss) / max(1, int(images.sum())),
            dense_correct=dense_correct.astype(np.int64),
            seen={name: counts.astype(np.int64) for name, counts in seen.items()},
            estimate={n: loss[n].sum(axis=1) / np.maximum(seen[n], 1) for n in names},
        )

    def accuracy_loss(self, group: str) -> Sums:
        """D: decrease of each class's accuracy without the channel, shape (channels, classes).

        Raises:
            DataError: there were no labels that are classes.
            SecateursError: channels were not removed on all images.
        """
        if not self.classified:
            raise DataError(
                "critical: expected labels that are classes, whole numbers from 0; received none. "
                "Pass data=(images, labels)."
            )
        if not self.exact:
            raise SecateursError(
                "critical: expected every channel to be removed on every image; received an "
                "ablation in racing mode, which stops early. Ablate in exact mode."
            )
        fall: Sums = -self.correct[group] / np.maximum(self.images, 1)
        return fall

    def damage(self, group: str) -> Sums:
        """``accuracy_loss`` with ties broken by each class's mean change of the loss.

        Shape (channels, classes). Accuracy on finitely many images moves in steps, and for most
        channels and classes not at all; the loss always does.
        """
        loss = self.loss[group] / np.maximum(self.images, 1)
        largest = max(float(np.abs(values).max(initial=0)) for values in self.loss.values())
        # Half of the smallest step that any accuracy can make, whatever the loss.
        step = 0.5 / float(np.maximum(self.images, 1).max()) ** 2
        damage: Sums = self.accuracy_loss(group) + step * loss / max(largest, 1e-300)
        return damage

    def critical(self, group: str, best: int) -> Ids:
        """Union over classes of the ``best`` channels whose removal hurts the class most."""
        if best < 1:
            raise SecateursError(
                f"critical: expected at least one channel a class; received {best}"
            )
        damage = self.damage(group)[:, self.images > 0]
        order = np.argsort(-damage, axis=0, kind="stable")
        return np.unique(order[:best])


class AblationSums:
    """Sums of the effects of removed channels by class; memory does not grow with the images.

    Args:
        network: network of the channels.
        classes: number of classes; 0 if labels are not classes.
    """

    def __init__(self, network: Network, classes: int) -> None:
        shapes = {group.name: (len(group), max(1, classes)) for group in network.groups}
        self.loss: dict[str, Sums] = {name: np.zeros(shape) for name, shape in shapes.items()}
        self.correct: dict[str, Sums] = {name: np.zeros(shape) for name, shape in shapes.items()}
        self.seen: dict[str, Ids] = {g.name: np.zeros(len(g), np.int64) for g in network.groups}
        self.images: Ids = np.zeros(max(1, classes), np.int64)
        self.dense_correct: Ids = np.zeros(max(1, classes), np.int64)
        self.dense_loss = 0.0
        self.classified = classes > 0

    def add_dense(
        self, losses: ChannelValues, right: ChannelValues | None, labels: Ids | None
    ) -> None:
        """Add the dense network on one batch: loss of each image, 1 if it is classified right."""
        check_finite_losses("ablate", losses)
        member = self._members(len(losses), labels)
        self.images += member.sum(axis=0).astype(np.int64)
        self.dense_loss += float(losses.sum())
        if right is not None:
            self.dense_correct += (right.astype(np.float64) @ member).astype(np.int64)

    def add(
        self,
        name: str,
        channels: Ids,
        loss: ChannelValues,
        right: ChannelValues,
        labels: Ids | None,
        where: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add the effects of removing some channels of a group on that batch.

        Args:
            name: name of the group.
            channels: indices of the channels in the group.
            loss: change of the loss, shape (channels, images).
            right: 1 where an image is now classified right and was not before, -1 the other way
                round; same shape.
            labels: labels of the images.
            where: mask of the entries that count, same shape; None if all do.
        """
        member = self._members(loss.shape[1], labels)
        counts = np.ones(loss.shape, bool) if where is None else where
        self.loss[name][channels] += np.where(counts, loss, 0) @ member
        self.correct[name][channels] += np.where(counts, right, 0).astype(np.float64) @ member
        self.seen[name][channels] += counts.sum(axis=1)

    def mean(self, name: str) -> Sums:
        """Mean change of the loss over the images that each channel was removed on."""
        mean: Sums = self.loss[name].sum(axis=1) / np.maximum(self.seen[name], 1)
        return mean

    def ablation(self) -> Ablation:
        """The ablation, if every channel was removed on every image."""
        return Ablation(
            self.loss,
            self.correct,
            self.images,
            self.dense_loss / max(1, int(self.images.sum())),
            self.dense_correct,
            self.seen,
            estimate={name: self.mean(name) for name in self.loss},
            error={name: np.zeros(len(seen)) for name, seen in self.seen.items()},
            classified=self.classified,
        )

    def _members(self, images: int, labels: Ids | None) -> Sums:
        """Class membership of the images as 0 and 1, shape (images, classes)."""
        if not self.classified or labels is None:
            return np.ones((images, 1))
        members = np.zeros((images, len(self.images)))
        members[np.arange(images), labels.astype(np.int64)] = 1
        return members


ABLATION = instance(
    Ablation, "an Ablation", SecateursError, "secateurs.ablate(network, data) makes one."
)
"""How public functions check an argument that is an ablation."""
