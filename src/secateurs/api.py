"""The public calls, for whichever framework the model is of.

Neither framework is imported here: a model can only be of one that its user has imported already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secateurs.backends import Outputs, backend_named, backend_of
from secateurs.calibration.ablation import Ablation
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, report_of
from secateurs.criteria import scoring
from secateurs.criteria.group_data import Facts
from secateurs.criteria.registry import AUTO
from secateurs.criteria.scoring import Scores
from secateurs.measurement.profiling import profile_network
from secateurs.planning.auto_criterion import scores_at_half
from secateurs.planning.budget import Budget
from secateurs.planning.meeting import meet, needs_trials
from secateurs.planning.trials import Trial
from secateurs.planning.units import Limit
from secateurs.reconstruction.pruner import (
    Distilling,
    Judging,
    Pruner,
    Request,
    open_workshop,
    repair_model,
)
from secateurs.reconstruction.trade_off import SHARES, Frontier, find_frontier
from secateurs.settings.pruning import Pruning
from secateurs.settings.study import Configuration, Stop
from secateurs.settings.training import Training
from secateurs.study.run import Iterated, run_study
from secateurs.study.sources import Sources
from secateurs.training.callbacks import Watcher
from secateurs.training.distillation import Change
from secateurs.training.feed import Augmentation


def trace(model: Any, example_inputs: Any = None, *, outputs: Outputs | None = None) -> Network:
    """Find the channels of a model and everything that is coupled to them.

    Args:
        model: a PyTorch module or a Keras model, in train or eval mode; it is not changed.
        example_inputs: an array or tensor, or a tuple or dictionary of them, as the model takes.
            A batch of one makes MACs come out per example. Keras models know their inputs.
        outputs: names of the outputs that you use, such as ``"logits"`` or ``[0, "aux.boxes"]``:
            channels that only the others show may go, and only these are proven. None: all of them
            are used. A Keras model's are chosen with ``keras.Model(inputs, [...])``.

    Returns:
        The network: ``.groups``, ``.frozen``, ``.params()``, ``.macs()``; ``print`` shows a table.

    Raises:
        ModelError: the model's forward raises on these inputs, or it is no model.
        UnknownNameError: it gives no output of such a name.
    """
    return backend_of(model).trace(model, example_inputs, outputs=outputs)


def apply(model: Any, cut: Cut, example_inputs: Any = None, **options: Any) -> Any:
    """Make a cut: a new model, proven against the masked twin of the old one, which stays as it is.

    Args:
        model: the model the cut was planned for.
        cut: what goes.
        example_inputs: what to run both models on for the proof.
        **options: ``optimizer=`` to have its state sliced along (then a pair is returned),
            ``proof=False`` to leave the proof out, ``proof="independent"`` (PyTorch) for a second
            one that shares nothing with the rules.

    Returns:
        The small model; ``report_of`` gives the proof and everything removed so far.

    Raises:
        CutError: the cut does not fit, or the proof does not hold. Nothing is left behind.
    """
    return backend_of(model).apply(model, cut, example_inputs, **options)


def score(
    network: Network,
    criterion: str | Callable[[Facts], Any] = "l1",
    *,
    data: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
) -> Scores:
    """Score every channel that can be pruned.

    Args:
        network: as ``trace`` made it; weights are read as they are now.
        criterion: a name (``secateurs criteria`` lists them) or a function of ``Facts`` that
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
    model: Any,
    channels: Mapping[str, Sequence[int]],
    example_inputs: Any = None,
    *,
    outputs: Outputs | None = None,
) -> Any:
    """Surgery by hand: remove these filters and whatever is coupled to them, with proof.

    Args:
        model: unchanged.
        channels: layer name -> indices of the filters to remove, ``{"layer1.0.conv1": [0, 4]}``.
        example_inputs: what the model takes.
        outputs: names of the outputs that you use, as for ``trace``.

    Returns:
        A new, smaller model.

    Raises:
        UnknownNameError: no such layer.
        CutError: a filter that may not go, and why.
    """
    return backend_of(model).delete_channels(model, channels, example_inputs, outputs=outputs)


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
    return backend_named(network.source.framework).oracle(network, data, **options)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What ``prune`` gives.

    Attributes:
        model: the small model.
        cut: what was removed.
        report: the proof, and the costs before and after.
        scores: how channels were ranked; with ``criterion="auto"``, ``scores.tournament`` says
            which criterion won, and why.
        trials: the cuts that were made and measured on the way, where the budget says what only a
            cut model can tell: a time, a drop, a peak of memory.
    """

    model: Any
    cut: Cut
    report: CutReport
    scores: Scores
    trials: tuple[Trial, ...] = ()


def prune(
    model: Any,
    example_inputs: Any,
    budget: Budget | str | Mapping[str, Limit] | None = None,
    *,
    criterion: str | Callable[[Facts], Any] | None = None,
    calibration: Any = None,
    validation: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    repair: bool | None = None,
    distil: int | str | None = None,
    augmentation: Augmentation | Change | None = None,
    seed: int = 0,
    proof: bool | Literal["independent"] = True,
    outputs: Outputs | None = None,
    **planning: Any,
) -> Pruned:
    """Trace, allocate, select, cut, prove and repair, all in one.

    With calibration images, which need no labels, each group is cut as far as that was measured to
    cost least, and the weights that stay are fitted to give what the dense model gave, layer by
    layer. Without, scores alone decide.

    Args:
        model: unchanged.
        example_inputs: what the model takes.
        budget: what may remain; or ``amount=`` or ``threshold=`` as for ``plan``. Limits of time
            are met by timing the result beside the dense model and planning again; those on the
            drop of accuracy and on the peak of memory by making several models.
        criterion: ranks the channels inside each group; None is structured optimal brain surgery
            with images, "l1" without; "auto" lets several make this very cut, and takes the one
            that the calibration loss is lowest after.
        calibration: (images, labels), images alone, or batches of such; 512 are plenty.
        validation: what a budget's ``drop`` is told by: (images, labels), batches of such, or a
            function of a model that returns its metric, larger being better. Not the test data.
        loss: (outputs, labels) -> one loss for each image, for criteria; None is cross-entropy.
        repair: whether to fit the weights that stay; None does where there are images for it: 4,
            or 64 where they were given for a criterion that is named.
        distil: go on training towards the dense model's answers: 300 steps, or "60s". Kept only
            where it makes the model more faithful.
        augmentation: what distillation may do to images, such as ``Augmentation(flip=True,
            shift=2, mix=0.5)``, or a function (images, random) -> images; None leaves them alone.
        seed: of splits and draws.
        proof: as for ``apply``.
        outputs: names of the outputs that you use, as for ``trace``.
        **planning: as for ``plan``: ``scope``, ``floor``, ``multiple``, ``skip``, ... With
            ``scope``, ``threshold`` or ``sensitivity`` these say how far each group is cut. And
            ``output``, ``sources``, ``second_domain``: how to judge; see ``Judging``.

    Returns:
        The small model, the cut, the report and the scores; ``print(pruned.report)``.

    Raises:
        BudgetError: no cut within the floors meets the budget.
        DataError: the calibration data cannot be used, or there are none for what was asked.
    """
    network = trace(model, example_inputs, outputs=outputs)
    judging = Judging.taken_from(planning)
    distilling = Distilling.parse(distil, augmentation)
    request = Request(criterion, loss, repair, distilling, judging, seed, proof)
    wanted = None if budget is None else Budget.of(budget)
    if wanted is not None and wanted.is_timed and planning.get("latency_model") is None:
        planning["latency_model"] = profile_network(network, wanted.conditions)
    predicted = None if wanted is None else wanted.first_guess
    shop = open_workshop(model, network, calibration, predicted, request, planning)
    if wanted is None or not needs_trials(wanted):
        small, cut = shop.best(predicted)
        return Pruned(small, cut, report_of(small), shop.scores)
    latency_model = planning.get("latency_model")
    small, chosen, trials = meet(network, wanted, shop.plan, shop.make, latency_model, validation)
    return Pruned(small, chosen.cut, report_of(small), shop.scores, tuple(trials))


def repair(
    small: Any,
    dense: Any,
    images: Any,
    *,
    example_inputs: Any = None,
    distil: int | str | None = None,
    augmentation: Augmentation | Change | None = None,
    seed: int = 0,
    **judging: Any,
) -> Any:
    """Fit the weights of a cut model to what the dense one gives, layer by layer; no labels.

    For a cut that was made by ``apply``, by ``delete_channels``, by hand or by another tool. Which
    channels it kept is known from its report, or found by comparing weights: the small model's must
    still be slices of the dense one's.

    Args:
        small: the cut model; unchanged.
        dense: the one that it was cut from; unchanged.
        images: as ``calibration`` of ``prune``.
        example_inputs: what the models take; None takes the first of the images.
        distil: as for ``prune``.
        augmentation: as for ``prune``.
        seed: of splits and draws.
        **judging: ``output``, ``sources``, ``second_domain``: see ``Judging``.

    Returns:
        A new model, of the most faithful weights, ``small``'s own among them;
        ``report_of(model).fidelity`` says what each step gave.

    Raises:
        CutError: it cannot be found which channels the small model kept.
        DataError: the images cannot be used.
        ModelError: the two do not do the same operations.
    """
    request = Request(
        None, None, True, Distilling.parse(distil, augmentation), Judging(**judging), seed
    )
    return repair_model(small, dense, images, example_inputs, request)


def frontier(
    model: Any,
    example_inputs: Any,
    *,
    calibration: Any,
    unit: str = "macs",
    shares: Sequence[float] = SHARES,
    criterion: str | Callable[[Facts], Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    distil: int | str | None = None,
    augmentation: Augmentation | Change | None = None,
    seed: int = 0,
    **planning: Any,
) -> Frontier:
    """What could be had at a dozen budgets: each cut, proven, repaired and judged.

    What does not depend on the budget is made once, so that the whole takes about a minute for a
    small network. Any point's model is there by name: ``found.model("macs=0.25")``.

    Args:
        model: unchanged.
        example_inputs: what the model takes.
        calibration: as for ``prune``; labels, where there are any, make accuracies.
        unit: of the budgets: "macs", "params", "channels" or "size_mb".
        shares: of the dense model's, each in (0, 1).
        criterion: as for ``prune``.
        loss: as for ``prune``.
        distil: as for ``prune``, for each of the models.
        augmentation: as for ``prune``.
        seed: of splits and draws.
        **planning: ``floor``, ``multiple``, ``skip`` as for ``plan``; and how to judge, see
            ``Judging``.

    Returns:
        The points; ``print`` shows a table, ``.figure()`` draws them, ``.knee`` names the one
        beyond which most is lost.

    Raises:
        BudgetError: a share is out of range, or none can be met.
        DataError: the calibration data cannot be used.
    """
    network = trace(model, example_inputs)
    judging = Judging.taken_from(planning)
    request = Request(criterion, loss, True, None, judging, seed)
    pruner = Pruner.of(model, network, calibration, request)
    effort = Distilling.parse(distil, augmentation)
    return find_frontier(pruner, unit=unit, shares=shares, distil=effort, **planning)


def iterate(
    model: Any,
    train: Any,
    validation: Any,
    test: Any = None,
    *,
    step: float = 0.05,
    criterion: str | Callable[[Facts], Any] = "l1",
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
        criterion: what ranks them: a name, a function of ``Facts``, or "auto" (see ``prune``).
        training: how to train; None takes the dense model as trained. A compiled Keras model is
            retrained with its own optimizer and loss unless ``training`` names an optimizer.
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
    name = getattr(criterion, "__name__", "own") if callable(criterion) else criterion
    return run_study(
        model,
        Sources(train, validation, test),
        Configuration(
            training=backend_of(model).training_of(model, training),
            pruning=Pruning(step=step, criterion=name, **pruning),
            stop=stop or Stop(),
        ),
        criterion=criterion if callable(criterion) else None,
        loss=loss,
        directory=directory,
        fresh=fresh,
        watcher=watcher,
    )
