"""How much each group can lose by itself: measured once, saved, and used by later plans."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, StrictInt, StrictStr

from secateurs import formatting
from secateurs.arguments import CRITERION, DATA_GIVEN, FUNCTION, LOSS, NUMBERS, PATH, SEED, takes
from secateurs.backends import backend_named
from secateurs.calibration.batches import CalibrationBatch, as_array
from secateurs.calibration.examples import as_given, read_batches
from secateurs.calibration.judging import check_finite_losses
from secateurs.channels.arrays import Floats
from secateurs.channels.cut import Cut
from secateurs.channels.network import NETWORK, Network
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import find
from secateurs.criteria.scoring import Scores, score
from secateurs.errors import SecateursError, StudyError, UnknownNameError, in_one_line, nearest
from secateurs.files import check_can_write, write_atomically
from secateurs.training.metric import Metric
from secateurs.training.objectives import label_tokens, loss_in, objective_of
from secateurs.training.task import LearningTask

FORMAT, VERSION = "secateurs-sensitivity", 1
_SHOWN = (0.25, 0.5, 0.75)
AMOUNTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, eq=False, slots=True)
class Sensitivity:
    """Loss when more and more channels of a single group are removed.

    Attributes:
        shares: group -> removed shares of its channels, ascending from 0.
        losses: group -> mean loss at each share.
        accuracies: group -> accuracy (or other metric) at each share; {} where labels are not
            classes and there is no metric.
        criterion: criterion that ranked the channels.
        images: number of images in the measurement.
        made_from: fingerprint of the model, the criterion and the images.
        metric: metric that ``accuracies`` holds.
        amounts: requested shares; ``shares`` are the nearest that whole channels allow.
    """

    shares: Mapping[str, Floats]
    losses: Mapping[str, Floats]
    accuracies: Mapping[str, Floats]
    criterion: str
    images: int
    made_from: str = ""
    metric: Metric = field(default_factory=Metric)
    amounts: tuple[float, ...] = ()

    def damage(self, group: str, shares: Floats) -> Floats:
        """Rise of the loss when these shares of a group are removed; never decreasing.

        It is interpolated linearly between measured shares, and 0 where removal improves the loss.

        Raises:
            UnknownNameError: the group was not measured.
        """
        if group not in self.losses:
            raise UnknownNameError(
                f"sensitivity: {group} was not measured{nearest(group, list(self.losses))}. "
                "Measure the network that is planned for."
            )
        rises = self.losses[group] - self.losses[group][0]
        # Beyond the measured amounts: linear extrapolation from the last two points.
        rising = np.maximum.accumulate(np.maximum(rises, 0))
        measured = self.shares[group]
        found: Floats = np.interp(shares, measured, rising)
        if len(measured) > 1:
            beyond = shares > measured[-1]
            with np.errstate(over="ignore"):  # losses near the largest number: infinite
                slope = (rising[-1] - rising[-2]) / (measured[-1] - measured[-2])
                found[beyond] += (shares[beyond] - measured[-1]) * slope
        return found

    def limits(self, rise: float) -> dict[str, float]:
        """Group -> largest measured share at which the loss rises by at most ``rise``."""
        return {
            name: float(shares[self.damage(name, shares) <= rise].max())
            for name, shares in self.shares.items()
        }

    @property
    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Group -> (shares, accuracies, or losses if there are none), for plotting."""
        values = self.accuracies or self.losses
        return {name: (self.shares[name], values[name]) for name in self.shares}

    @property
    def _table_amounts(self) -> tuple[float, ...]:
        """The amounts that the table shows: those requested, if they are few."""
        if 0 < len(self.amounts) <= len(_SHOWN) + 1:
            return self.amounts
        furthest = max(self.amounts, default=1.0)
        return tuple(share for share in _SHOWN if share <= furthest)

    def __str__(self) -> str:
        shown = np.array(self._table_amounts)
        harm = {name: self.damage(name, shown) for name in self.losses}
        names = sorted(harm, key=lambda name: -float(harm[name][len(shown) // 2]))
        rows = [[name, *(f"{rise:+.3f}" for rise in harm[name])] for name in names]
        columns = ["group", *(f"at {100 * share:g} %" for share in shown)]
        text = (
            f"Rise of the loss when that share of a single group is removed by {self.criterion}; "
            f"{self.images} images."
        )
        if self.accuracies:
            columns += [f"{self.metric.name} at {100 * share:g} %" for share in shown]
            for cells, name in zip(rows, names, strict=True):
                cells.extend(map(self.metric.text, np.interp(shown, *self.curves[name])))
            dense = next(iter(self.accuracies.values()))[0]
            better = "higher" if self.metric.higher_is_better else "lower"
            text += (
                f" Beside it the {self.metric.name}, {self.metric.text(dense)} of the dense model; "
                f"{better} is better."
            )
        return f"{formatting.table(columns, rows, right=range(1, len(columns)))}\n\n{text}"

    @takes(path=PATH)
    def save(self, path: str | Path) -> None:
        """Write the curves to a file."""
        arrays = {
            name: {group: values.tolist() for group, values in getattr(self, name).items()}
            for name in ("shares", "losses", "accuracies")
        }
        plain = {
            "format": FORMAT,
            "version": VERSION,
            "criterion": self.criterion,
            "images": self.images,
            "made_from": self.made_from,
            "amounts": list(self.amounts),
            **self.metric.record_fields,
            **arrays,
        }
        write_atomically(Path(path), (json.dumps(plain, indent=1) + "\n").encode())

    @classmethod
    @takes(path=PATH)
    def load(cls, path: str | Path) -> Self:
        """Read curves that ``save`` wrote.

        Raises:
            StudyError: the file cannot be read, or is something else.
        """
        try:
            plain = _SensitivityData.model_validate(json.loads(Path(path).read_bytes()))
            plain.check()
        except (OSError, ValueError, RecursionError) as error:
            raise StudyError(
                f"{path}: cannot be read as a sensitivity: {in_one_line(error)}. Measure it "
                "again: sensitivity(network, data, cache=...)"
            ) from error
        shares, losses, accuracies = (
            {group: np.array(values, float) for group, values in kept.items()}
            for kept in (plain.shares, plain.losses, plain.accuracies)
        )
        metric = Metric.of({"metric": plain.metric})
        rest = plain.criterion, plain.images, plain.made_from, metric, tuple(plain.amounts)
        return cls(shares, losses, accuracies, *rest)


CurvesData = dict[StrictStr, list[Annotated[float, Field(allow_inf_nan=False)]]]


class _SensitivityData(BaseModel):
    """Schema of a file of curves."""

    format: str
    version: int
    criterion: StrictStr
    images: Annotated[StrictInt, Field(ge=0)]
    made_from: StrictStr
    shares: CurvesData
    losses: CurvesData
    accuracies: CurvesData
    metric: dict[str, StrictStr | bool] | None = None
    amounts: list[Annotated[float, Field(gt=0, lt=1)]] = []

    def check(self) -> None:
        """Check what the schema alone does not.

        Raises:
            ValueError: the format is another, or the curves do not fit each other.
        """
        if self.format != FORMAT or self.version != VERSION:
            raise ValueError(f"its format is {self.format} {self.version}")
        for name, curves in (("losses", self.losses), ("accuracies", self.accuracies or None)):
            if curves is not None and curves.keys() != self.shares.keys():
                raise ValueError(f"its {name} are of other groups than its shares")
            for group, values in (curves or {}).items():
                if len(values) != len(self.shares[group]):
                    raise ValueError(f"{name} of {group} are not as many as its shares")
        for group, shares in self.shares.items():
            if not shares or any(a >= b for a, b in itertools.pairwise(shares)):
                raise ValueError(f"the shares of {group} are not rising")


@takes(
    network=NETWORK,
    data=DATA_GIVEN,
    criterion=CRITERION,
    amounts=NUMBERS,
    loss=LOSS,
    seed=SEED,
    cache=PATH.or_none(),
    tick=FUNCTION,
)
def sensitivity(
    network: Network,
    data: Any,
    *,
    criterion: str | Callable[[GroupData], Any] = "l1",
    amounts: Sequence[float] = AMOUNTS,
    loss: Callable[[Any, Any], Any] | None = None,
    task: str | LearningTask | None = None,
    metric: Any = None,
    seed: int = 0,
    cache: str | Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Sensitivity:
    """Remove more and more of each group alone, and measure the loss.

    A cut shifts the inputs of batch normalisation, which training would correct at once, so its
    statistics are re-estimated on the same images before each measurement, also for the dense one.

    Args:
        network: as returned by ``trace``; its model is restored afterwards.
        data: calibration data with labels, as for ``score``.
        criterion: what ranks the channels; as for ``score``.
        amounts: shares of the group to remove, in (0, 1); one or several.
        loss: (outputs, labels) -> one loss for each image; None is cross-entropy.
        task: what the model is for, as for ``iterate``: gives the loss and the metric.
        metric: metric shown beside the loss, as for ``iterate``.
        seed: seed of stochastic criteria.
        cache: path of a file, read if it holds this model's, criterion's and images' curves; else
            written.
        tick: called after each measurement; there is one for each group and amount.

    Raises:
        DataError: the data cannot be used.
        SecateursError: an amount is out of range.
        StudyError: the cache cannot be read, or written.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> data = torch.randn(16, 4), torch.arange(16) % 2
        >>> measured = sec.sensitivity(network, data, amounts=(0.5,))
        >>> measured.shares["0"].tolist()
        [0.0, 0.5]
    """
    seed, wanted = int(seed), sorted(set(amounts))
    if not wanted or not all(0 < amount < 1 for amount in wanted):
        raise SecateursError(f"sensitivity: expected amounts in (0, 1); received {list(amounts)}")
    source: Any = network.source
    data = label_tokens(task, data)
    learning = objective_of(network, task, loss, metric, data)
    loss = loss if learning is None else loss_in(learning, data)
    images = list(read_batches(data, source.example_inputs, "sensitivity", loss))
    return _curves_of(network, images, criterion, wanted, loss, learning, seed, cache, tick)


def _curves_of(
    network: Network,
    images: Sequence[CalibrationBatch],
    criterion: str | Callable[[GroupData], Any],
    amounts: Sequence[float],
    loss: Callable[[Any, Any], Any] | None,
    learning: LearningTask | None,
    seed: int,
    cache: str | Path | None,
    tick: Callable[[], None],
) -> Sensitivity:
    """Read the curves from the cache, or measure them."""
    name = find(criterion).name
    by = [] if learning is None else [f"{learning.name}, {learning.described_metric.name}"]
    made_from = _fingerprint(network, images, [name, list(amounts), seed, *by])
    known = _read_cache(cache, made_from)
    if known is not None:
        return known
    if cache is not None:
        check_can_write(Path(cache))
    scores = score(
        network, criterion, data=[as_given(batch) for batch in images], loss=loss, seed=seed
    )
    curves = _measure(network, scores, images, amounts, loss, learning, tick)
    metric = Metric() if learning is None else learning.described_metric
    made = Sensitivity(*curves, name, sum(map(len, images)), made_from, metric, tuple(amounts))
    if cache is not None:
        made.save(cache)
    return made


def _measure(
    network: Network,
    scores: Scores,
    images: Sequence[CalibrationBatch],
    amounts: Sequence[float],
    loss: Callable[[Any, Any], Any] | None,
    learning: LearningTask | None,
    tick: Callable[[], None],
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats]]:
    """(shares, losses, accuracies) of each group."""
    backend = backend_named(network.source.framework)
    by = (images, loss, learning)
    dense = backend.evaluate_cut(network, Cut(), images, *by)
    check_finite_losses("sensitivity", dense[0])
    shares: dict[str, Floats] = {}
    losses: dict[str, Floats] = {}
    accuracies: dict[str, Floats] = {}
    for group in network.groups:
        rising = np.argsort(scores[group.name], kind="stable")
        found = [(0, *dense)]
        for count in _counts(len(group), amounts):
            cut = network.cut({group.name: np.sort(rising[:count])})
            found.append((count, *backend.evaluate_cut(network, cut, images, *by)))
            tick()
        shares[group.name] = np.array([count / len(group) for count, _, _ in found])
        losses[group.name] = np.array([one.mean() for _, one, _ in found])
        if dense[1] is not None:
            accuracies[group.name] = np.array([right for _, _, right in found], float)
    return shares, losses, accuracies


def measurements(network: Network, amounts: Sequence[float] = AMOUNTS) -> int:
    """Number of measurements that ``sensitivity`` makes."""
    return sum(len(list(_counts(len(group), amounts))) for group in network.groups)


def _counts(width: int, amounts: Sequence[float]) -> Iterator[int]:
    """Number of channels to remove for each amount: distinct, and never all."""
    yield from sorted({min(max(1, round(amount * width)), width - 1) for amount in amounts} - {0})


def _fingerprint(
    network: Network, images: Sequence[CalibrationBatch], settings_used: Sequence[Any]
) -> str:
    weights = 0
    for name in sorted(network.tensors):
        weights = zlib.crc32(network.source.array(name).tobytes(), weights)
    seen = 0
    for batch in images:
        for array in _arrays(as_given(batch)):
            seen = zlib.crc32(array.tobytes(), seen)
    settings = json.dumps(settings_used)
    return f"{weights:08x}-{seen:08x}-{zlib.crc32(settings.encode()):08x}"


def _arrays(given: Any) -> Iterator[NDArray[Any]]:
    """Yield every array in a batch, however it is nested."""
    if isinstance(given, Mapping):
        given = list(given.values())
    if isinstance(given, tuple | list):
        for one in given:
            yield from _arrays(one)
    elif given is not None:
        yield as_array(given)


def _read_cache(cache: str | Path | None, made_from: str) -> Sensitivity | None:
    if cache is None or not Path(cache).exists():
        return None
    known = Sensitivity.load(cache)
    return known if known.made_from == made_from else None
