"""Scoring every channel of a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import (
    CRITERION_LIST,
    DATA_GIVEN,
    LOSS,
    SEED,
    format_value,
    takes,
    takes_as_annotated,
)
from secateurs.backends import backend_named
from secateurs.calibration.needs import Need
from secateurs.calibration.peers import ALONE
from secateurs.calibration.shared_data import SharedData
from secateurs.calibration.statistics import CalibrationStatistics
from secateurs.channels.layer_groups import group_of_layer
from secateurs.channels.network import NETWORK, Group, Network
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import AUTO, Criterion, Function, find, is_own
from secateurs.errors import (
    DataError,
    ModelError,
    SecateursError,
    UnknownNameError,
    describe_raised,
)

if TYPE_CHECKING:
    from secateurs.planning.auto_criterion import Tournament


class _NoScoresError(UnknownNameError, KeyError):
    """As a mapping must raise it; shown without the quotes that KeyError adds."""

    __str__ = Exception.__str__


class Scores(Mapping[str, NDArray[np.float64]]):
    """A score for each channel of each group; the lowest is pruned first.

    Keys are names of groups. The name of a layer is accepted too if its channels are in one group
    (``scores["lstm"]``, whose group is ``lstm/8x4``); of an attention layer, it means its heads.

    Attributes:
        criterion: name of the criterion that computed them.
        tournament: how that criterion was chosen, if ``"auto"`` was requested; else None. Print it
            for the ranking.
    """

    @takes_as_annotated(SecateursError)
    def __init__(
        self,
        values: Mapping[str, NDArray[np.float64]],
        criterion: str,
        tournament: Tournament | None = None,
        layers: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Hold scores.

        Args:
            values: group -> score of each channel, shape (channels,).
            criterion: as the attribute.
            tournament: as the attribute.
            layers: layer -> names of the groups that hold its channels.
        """
        self._values = dict(values)
        self.criterion = criterion
        self.tournament = tournament
        self._layers = dict(layers or {})

    def __getitem__(self, group: str) -> NDArray[np.float64]:
        if group not in self._values:
            try:
                group = group_of_layer(group, self._layers, self._values)
            except UnknownNameError as error:
                raise _NoScoresError(*error.args) from None
        return self._values[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        channels = sum(len(values) for values in self._values.values())
        return f"<Scores by {self.criterion}: {channels} channels in {len(self)} groups>"


def score(
    network: Network,
    criterion: str | Callable[[GroupData], Any] = "l1",
    *,
    data: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
) -> Scores:
    """Score every channel that can be pruned.

    Args:
        network: as returned by ``trace``; weights are read as they are now.
        criterion: a name (``secateurs criteria`` lists them) or a function of ``GroupData`` that
            returns one number for each channel.
        data: calibration data, for criteria that need it: (images, labels) as two arrays, images
            alone where no labels are needed, or an iterable of such batches.
        loss: (outputs, labels) -> one loss for each image, in the model's framework; None is
            cross-entropy.
        seed: seed of stochastic criteria.

    Raises:
        UnknownNameError: no criterion has this name.
        DataError: the criterion needs calibration data and received none, or none it can use.
        ModelError: weights hold NaN; the message names the layer.
        SecateursError: a user-defined criterion returned the wrong number of scores.
    """
    found = find(criterion)
    return score_many(network, [criterion], data=data, loss=loss, seed=seed)[found.name]


@takes(network=NETWORK, criteria=CRITERION_LIST, data=DATA_GIVEN, loss=LOSS, seed=SEED)
def score_many(
    network: Network,
    criteria: Sequence[str | Callable[[GroupData], Any]],
    *,
    data: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
) -> dict[str, Scores]:
    """Score every channel by several criteria, with one pass over the calibration data.

    Args:
        network: as returned by ``trace``.
        criteria: names, or functions as for ``score``; one or several.
        data: calibration data, as for ``score``; iterated once, whatever the criteria.
        loss: as for ``score``.
        seed: seed of stochastic criteria.

    Returns:
        Name of each criterion -> its scores.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> sorted(sec.score_many(network, ["l1", "l2"]))
        ['l1', 'l2']
    """
    found = [find(criterion) for criterion in criteria]
    gathered = _gather(network, found, data, loss)
    for criterion in found:
        if criterion.caution is not None and (why := criterion.caution(network, gathered)):
            warnings.warn(why, UserWarning, stacklevel=2)
    return {each.name: _scores(network, each, gathered, seed) for each in found}


def try_own(network: Network, wanted: str | Function, data: Any, loss: Any = None) -> None:
    """Score once by a user's own criterion, so that its errors are reported early.

    Args:
        network: network to score.
        wanted: a criterion; built-in ones are not tried.
        data: one or two batches of calibration data.
        loss: as for ``score``.

    Raises:
        SecateursError: the function raises, or does not return one score for each channel.
    """
    if wanted != AUTO and is_own(wanted):
        score(network, wanted, data=data, loss=loss)


@takes_as_annotated(SecateursError)
def collect_statistics(
    network: Network, needs: Need, data: Any, *, loss: Any = None, caller: str = "gather"
) -> CalibrationStatistics:
    """Collect all statistics that these needs require, in one pass over the calibration data.

    Args:
        network: as returned by ``trace``.
        needs: statistics to collect.
        data: calibration data, as for ``score``.
        loss: as for ``score``.
        caller: name of what needs the data, for messages.
    """
    source: Any = network.source
    backend = backend_named(source.framework)
    peers = ALONE
    if isinstance(data, SharedData):
        data, peers = data.part(source.example_inputs, caller, loss)
    found = backend.collect_statistics(network, needs, data, loss=loss, caller=caller)
    return found.total_over(peers)


def _gather(
    network: Network, criteria: Sequence[Criterion], data: Any, loss: Any
) -> CalibrationStatistics:
    demanding = [criterion for criterion in criteria if criterion.needs & Need.DATA]
    if demanding and data is None:
        raise DataError(_lacks_data(demanding))
    needs = reduce(or_, (criterion.needs for criterion in criteria), Need.NOTHING)
    if data is not None:
        needs = reduce(or_, (criterion.with_data for criterion in criteria), needs)
        demanding = demanding or [c for c in criteria if c.with_data]
    if not needs & Need.DATA:
        return CalibrationStatistics()
    names = ", ".join(criterion.name for criterion in demanding)
    return collect_statistics(network, needs, data, loss=loss, caller=names)


def _lacks_data(demanding: Sequence[Criterion]) -> str:
    names = ", ".join(criterion.name for criterion in demanding)
    labels = any(criterion.needs & Need.LOSS for criterion in demanding)
    wanted = "data=(images, labels)" if labels else "data=images"
    return (
        f"{names}: expected calibration data; received none. Pass {wanted}, arrays or an "
        "iterable of batches; or take a criterion that looks at weights alone, such as 'l1'."
    )


def _scores(
    network: Network, criterion: Criterion, gathered: CalibrationStatistics, seed: int
) -> Scores:
    seeds = np.random.default_rng(seed).spawn(len(network.groups))
    values = {
        group.name: _check(
            criterion, group, _call(criterion, GroupData(network, group, generator, gathered))
        )
        for group, generator in zip(network.groups, seeds, strict=True)
    }
    return Scores(values, criterion.name, layers=network.groups_by_layer)


def _call(criterion: Criterion, group: GroupData) -> Any:
    """Call the criterion's function.

    Raises:
        SecateursError: a user's function raised; the message says where.
    """
    try:
        return criterion.function(group)
    except SecateursError:
        raise
    except Exception as error:
        if str(getattr(criterion.function, "__module__", "")).startswith("secateurs."):
            raise
        raise SecateursError(
            f"{criterion.name}: expected a score for each channel; its code raised "
            f"{describe_raised(error)}"
        ) from error


def _check(criterion: Criterion, group: Group, values: Any) -> NDArray[np.float64]:
    try:
        scores = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise SecateursError(
            f"{criterion.name}: expected {len(group)} numbers for {group.name}, one a channel; "
            f"received {format_value(values)}"
        ) from error
    if scores.shape != (len(group),):
        raise SecateursError(
            f"{criterion.name}: expected {len(group)} scores for {group.name}, one a channel; "
            f"received an array of shape {scores.shape}"
        )
    if np.isnan(scores).any():
        channel = int(np.flatnonzero(np.isnan(scores))[0])
        raise ModelError(
            f"{group.name}: expected finite weights; its channel {channel} scores NaN by "
            f"{criterion.name}. The weights hold NaN: load a sound checkpoint."
        )
    return scores
