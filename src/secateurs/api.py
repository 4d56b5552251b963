"""The public calls, for whichever framework the model is of.

Neither framework is imported here: a model can only be of one that its user has imported already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateurs.backends import backend_named, backend_of
from secateurs.calibration.ablation import Ablation
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, report_of
from secateurs.criteria import scoring
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import AUTO
from secateurs.criteria.scoring import Scores
from secateurs.planning.auto_criterion import score_for, scores_at_half
from secateurs.planning.planner import Budget, plan
from secateurs.settings.configuration import Pruning, Stop, Training
from secateurs.study.directory import Iterated, Sources, run_study
from secateurs.training.callbacks import Watcher


def trace(model: Any, example_inputs: Any = None) -> Network:
    """Find the channels of a model and everything that is coupled to them.

    Args:
        model: a PyTorch module or a Keras model, in train or eval mode; it is not changed.
        example_inputs: an array or tensor, or a tuple or dictionary of them, as the model takes.
            A batch of one makes MACs come out per example. Keras models know their inputs.

    Returns:
        The network: ``.groups``, ``.frozen``, ``.params()``, ``.macs()``; ``print`` shows a table.

    Raises:
        ModelError: the model's forward raises on these inputs, or it is no model.
    """
    return backend_of(model).trace(model, example_inputs)


def apply(model: Any, cut: Cut, example_inputs: Any = None, **options: Any) -> Any:
    """Make a cut: a new model, proven against the masked twin of the old one, which stays as it is.

    Args:
        model: the model the cut was planned for.
        cut: what goes.
        example_inputs: what to run both models on for the proof.
        **options: ``optimizer=`` to have its state sliced along (then a pair is returned),
            ``proof=False`` to leave the proof out.

    Returns:
        The small model; ``report_of`` gives the proof and everything removed so far.

    Raises:
        CutError: the cut does not fit, or the proof does not hold. Nothing is left behind.
    """
    return backend_of(model).apply(model, cut, example_inputs, **options)


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
        network: as ``trace`` made it; weights are read as they are now.
        criterion: a name (``secateurs criteria`` lists them) or a function of ``GroupData`` that
            returns one number for each channel; or "auto": several cut half of the parameters, and
            the one whose cut has the lowest calibration loss is taken (see ``tournament``).
        data: calibration data, for criteria that need it: (images, labels) as two arrays, images
            alone where no labels are needed, or an iterable of such batches.
        loss: (outputs, labels) -> one loss for each image, in the model's framework; None is
            cross-entropy.
        seed: for criteria that draw lots.

    Raises:
        UnknownNameError: no criterion has this name.
        DataError: the criterion needs calibration data and got none, or none that it can use.
        ModelError: weights hold NaN; the message names the layer.
        SecateursError: a function of the user's returned the wrong number of scores.
    """
    if criterion == AUTO:
        return scores_at_half(network, data, loss=loss, seed=seed)
    return scoring.score(network, criterion, data=data, loss=loss, seed=seed)


def delete_channels(
    model: Any, channels: Mapping[str, Sequence[int]], example_inputs: Any = None
) -> Any:
    """Surgery by hand: remove these filters and whatever is coupled to them, with proof.

    Args:
        model: unchanged.
        channels: layer name -> indices of the filters to remove, ``{"layer1.0.conv1": [0, 4]}``.
        example_inputs: what the model takes.

    Returns:
        A new, smaller model.

    Raises:
        UnknownNameError: no such layer.
        CutError: a filter that may not go, and why.
    """
    return backend_of(model).delete_channels(model, channels, example_inputs)


def save(model: Any, path: str | Path) -> None:
    """Write a model's weights, with the cut that leads to it from the dense model; no pickle."""
    backend_of(model).save(model, path)


def load(model: Any, path: str | Path) -> Any:
    """Load what ``save`` wrote into a freshly built dense model; returns a new, cut one.

    Raises:
        CheckpointError: the file is corrupted, foreign, or does not fit the model.
    """
    return backend_of(model).load(model, path)


def ablate(network: Network, data: Any, **options: Any) -> Ablation:
    """What the loss does when each channel is removed, alone, class by class.

    Args:
        network: as ``trace`` made it.
        data: (images, labels) as two arrays, or an iterable of such batches.
        **options: ``mode="racing"`` looks for the lowest ``share=`` of the channels only, with this
            ``confidence=``, over the whole network or ``scope="group"`` by group; ``loss=`` is a
            function (outputs, labels) -> one loss for each image.

    Returns:
        The ablation; ``critical_channels`` and ``report.critical_by_class`` take it.

    Raises:
        DataError: the data cannot be used, or an option is out of range.
    """
    return backend_named(network.source.framework).ablate_channels(network, data, **options)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What ``prune`` gives.

    Attributes:
        model: the small model.
        cut: what was removed.
        report: the proof, and the costs before and after.
        scores: how channels were ranked; with ``criterion="auto"``, ``scores.tournament`` says
            which criterion won, and why.
    """

    model: Any
    cut: Cut
    report: CutReport
    scores: Scores


def prune(
    model: Any,
    example_inputs: Any,
    budget: Budget | None = None,
    *,
    criterion: str | Callable[[GroupData], Any] = "l1",
    calibration: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
    **planning: Any,
) -> Pruned:
    """Trace, score, plan, cut and prove, all in one.

    Args:
        model: unchanged.
        example_inputs: what the model takes.
        budget: what may remain; or ``amount=`` or ``threshold=`` as for ``plan``.
        criterion: how to rank channels; "auto" lets several make this very cut, and takes the one
            that the calibration loss is lowest after.
        calibration: data, for criteria that need it: (images, labels), or batches of such.
        loss: (outputs, labels) -> one loss for each image, for criteria that need one; None is
            cross-entropy.
        seed: for criteria that draw lots.
        **planning: passed to ``plan``: ``scope``, ``floor``, ``multiple``, ``skip``, ...
    """
    network = trace(model, example_inputs)

    def planner(scores: Scores) -> Cut:
        return plan(network, scores, budget, **planning)

    scores = score_for(network, criterion, planner, data=calibration, loss=loss, seed=seed)
    cut = planner(scores)
    small = apply(model, cut, example_inputs, network=network)
    return Pruned(small, cut, report_of(small), scores)


def iterate(
    model: Any,
    train: Any,
    validation: Any,
    test: Any = None,
    *,
    step: float = 0.05,
    criterion: str | Callable[[GroupData], Any] = "l1",
    training: Training | None = None,
    stop: Stop | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    directory: str | Path | None = None,
    fresh: bool = False,
    watcher: Watcher | None = None,
    **pruning: Any,
) -> Iterated:
    """The loop: train, then remove a share of the channels and fine-tune, round after round.

    Each round scores the channels that are left anew, removes some, proves the cut, and fine-tunes;
    its best evaluation by validation accuracy is kept. The result is the smallest model within the
    tolerance of the dense model's validation accuracy, or the dense one where no round recovered.
    The test data are looked at once, at the end. Everything random depends on ``training.seed``.

    Args:
        model: the dense model; unchanged.
        train: a ``secateurs.data.Split``; a pair of arrays (images as the model takes them,
            labels from 0); or such pairs, one a batch: a list, a DataLoader.
        validation: the same, to choose by.
        test: the same, to report; or None.
        step: share of the channels that remain, removed each round.
        criterion: what ranks them: a name, a function of ``GroupData``, or "auto" (see ``prune``).
        training: how to train; None takes the dense model as trained, and retrains a Keras model
            as it was compiled.
        loss: as for ``prune``; training is by cross-entropy.
        stop: when to end; None: when a round does not come within half a point of accuracy.
        directory: keeps the study there, with its report; one that was begun there goes on.
        fresh: start over where the directory holds a study.
        watcher: told what happens.
        **pruning: ``rewind``, ``until_recovered``, ``scope``, ``floor``, ...: see ``Pruning``.

    Returns:
        The result: ``.model``, ``.cut``, ``.report``, ``.history``, ``.directory``.

    Raises:
        SecateursError: what was asked for cannot be done; found, if it can be, before any training.
    """
    own = criterion if callable(criterion) else None
    name = getattr(criterion, "__name__", "own") if callable(criterion) else criterion
    return run_study(
        model,
        Sources(train, validation, test),
        training=training or _training_of(model),
        pruning=Pruning(step=step, criterion=name, **pruning),
        stop=stop or Stop(),
        criterion=own,
        loss=loss,
        directory=directory,
        fresh=fresh,
        watcher=watcher,
    )


def _training_of(model: Any) -> Training:
    """How to train where nothing is said."""
    return backend_of(model).default_training(model)
