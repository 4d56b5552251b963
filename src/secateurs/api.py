"""The public calls, for whichever framework the model is of.

Neither framework is imported here: a model can only be of one that its user has imported already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateurs.arguments import (
    BUDGET,
    CHANNELS,
    CRITERION,
    DATA_GIVEN,
    FLAG,
    FUNCTION,
    LAYERS,
    LOSS,
    MODEL,
    NUMBER,
    OPTIMIZER,
    PATH,
    SEED,
    TEXT,
    Kind,
    instance,
    layer_names,
    takes,
)
from secateurs.backends import backend_named, backend_of
from secateurs.calibration.ablation import Ablation
from secateurs.channels.cut import CUT, Cut
from secateurs.channels.network import NETWORK, Network
from secateurs.channels.proof import CutReport, report_of
from secateurs.criteria import scoring
from secateurs.criteria.group_data import Facts
from secateurs.criteria.registry import AUTO
from secateurs.criteria.scoring import Scores
from secateurs.errors import SecateursError
from secateurs.files import check_model_suffix
from secateurs.planning.auto_criterion import score_for, scores_at_half
from secateurs.planning.damage_curves import Sensitivity
from secateurs.planning.planner import Budget, Scope, plan
from secateurs.planning.uniform import make_uniform
from secateurs.settings.configuration import Pruning, Rewind, Stop, Training
from secateurs.study.directory import Iterated, Sources, carry_out
from secateurs.training.callbacks import Watcher
from secateurs.training.feed import is_labelled_images
from secateurs.training.task import LearningTask, task_of

if TYPE_CHECKING:
    from secateurs.calibration.racing import Mode

_TRAINING = instance(
    Training,
    "a Training",
    SecateursError,
    "Such as training=secateurs.Training(fine_tune_batches=500).",
)
_STOP = instance(Stop, "a Stop", SecateursError, "Such as stop=secateurs.Stop(rounds=5).")
_TASK = Kind("a task's name or a LearningTask", lambda value: isinstance(value, str | LearningTask))
_METRIC = Kind(
    "a metric's name, or a function of (outputs, targets)",
    lambda value: isinstance(value, str) or (callable(value) and not isinstance(value, type)),
)
_WATCHER = instance(Watcher, "a secateurs.Watcher", SecateursError)


@takes(model=MODEL)
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

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> [(group.name, len(group)) for group in network.groups]
        [('0', 8)]
    """
    return backend_of(model).trace(model, example_inputs)


@takes(model=MODEL, cut=CUT, optimizer=OPTIMIZER, network=NETWORK.or_none(), proof=FLAG)
def apply(
    model: Any,
    cut: Cut,
    example_inputs: Any = None,
    *,
    optimizer: Any = None,
    network: Network | None = None,
    proof: bool = True,
) -> Any:
    """Make a cut: a new model, proven against the masked twin of the old one, which stays as it is.

    Args:
        model: the model the cut was planned for.
        cut: what goes.
        example_inputs: what to run both models on for the proof.
        optimizer: of the model, to have its state sliced along; then (model, optimizer) is
            returned.
        network: of the model, where it was traced already; saves tracing it again.
        proof: False leaves the proof out.

    Returns:
        The small model; ``report_of`` gives the proof and everything removed so far.

    Raises:
        CutError: the cut does not fit, or the proof does not hold. Nothing is left behind.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> cut = sec.plan(network, sec.score(network), amount=0.5)
        >>> small = sec.apply(model, cut, torch.zeros(1, 4))
        >>> small[0].out_features, sec.report_of(small).proof.holds
        (4, True)
    """
    return backend_of(model).apply(
        model, cut, example_inputs, optimizer=optimizer, network=network, proof=proof
    )


@takes(network=NETWORK, criterion=CRITERION, data=DATA_GIVEN, loss=LOSS, seed=SEED)
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

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> sec.score(network, "l1")
        <Scores by l1: 8 channels in 1 groups>
    """
    if criterion == AUTO:
        return scores_at_half(network, data, loss=loss, seed=seed)
    return scoring.score(network, criterion, data=data, loss=loss, seed=seed)


@takes(model=MODEL, channels=CHANNELS)
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

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> small = sec.delete_channels(model, {"0": [0, 4]}, torch.zeros(1, 4))
        >>> small[0].out_features, small[2].in_features
        (6, 6)
    """
    return backend_of(model).delete_channels(model, channels, example_inputs)


@takes(model=MODEL, path=PATH)
def save(model: Any, path: str | Path) -> None:
    """Write a model's weights, with the cut that leads to it from the dense model; no pickle.

    Args:
        model: cut or not.
        path: of the file, which is safetensors; it is whole or not there.

    Raises:
        StudyError: the file cannot be written, or its name is one of another format.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> import tempfile
        >>> small = sec.prune(model, torch.zeros(1, 4), amount=0.5).model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sec.save(small, f"{folder}/small.safetensors")
    """
    check_model_suffix(Path(path))
    backend_of(model).save(model, path)


@takes(model=MODEL, path=PATH, ema=FLAG)
def load(model: Any, path: str | Path, *, ema: bool = False) -> Any:
    """Load what ``save`` wrote into a freshly built dense model; returns a new, cut one.

    A plain checkpoint will do too: .pt, .pth, Lightning's .ckpt or .safetensors, with the names
    that DataParallel or ``torch.compile`` gave.

    Args:
        model: the dense model, built as before; unchanged.
        path: of the file.
        ema: take a checkpoint's averaged weights; of PyTorch models.

    Raises:
        CheckpointError: the file is corrupted, foreign, or does not fit the model.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> import tempfile
        >>> small = sec.prune(model, torch.zeros(1, 4), amount=0.5).model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sec.save(small, f"{folder}/small.safetensors")
        ...     again = sec.load(model, f"{folder}/small.safetensors")
        >>> again[0].out_features
        4
    """
    options = {"ema": True} if ema else {}
    return backend_of(model).load(model, path, **options)


@takes(
    network=NETWORK,
    data=DATA_GIVEN,
    mode=TEXT,
    share=NUMBER,
    scope=TEXT,
    confidence=NUMBER,
    loss=LOSS,
)
def ablate(
    network: Network,
    data: Any,
    *,
    mode: Mode = "exact",
    share: float = 0.2,
    scope: Scope = "network",
    confidence: float = 0.97,
    loss: Callable[[Any, Any], Any] | None = None,
) -> Ablation:
    """What the loss does when each channel is removed, alone, class by class.

    Args:
        network: as ``trace`` made it.
        data: (images, labels) as two arrays, or an iterable of such batches.
        mode: "exact" removes every channel on every image; "racing" looks for the lowest only.
        share: of the channels, that racing looks for; in (0, 1).
        scope: racing looks for the lowest of the whole "network", or of each "group".
        confidence: in racing mode, the expected share of the channels found that are right.
        loss: (outputs, labels) -> one loss for each image; None is cross-entropy.

    Returns:
        The ablation; ``critical_channels`` and ``report.critical_by_class`` take it.

    Raises:
        DataError: the data cannot be used, or an option is out of range.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> data = torch.randn(16, 4), torch.arange(16) % 2
        >>> ablation = sec.ablate(network, data)
        >>> ablation.estimate["0"].shape
        (8,)
    """
    return backend_named(network.source.framework).oracle(
        network, data, mode=mode, share=share, scope=scope, confidence=confidence, loss=loss
    )


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


@takes(
    model=MODEL,
    budget=BUDGET,
    criterion=CRITERION,
    calibration=DATA_GIVEN,
    loss=LOSS,
    seed=SEED,
    skip=LAYERS,
    uniform=FLAG,
)
def prune(
    model: Any,
    example_inputs: Any,
    budget: Budget | None = None,
    *,
    criterion: str | Callable[[Facts], Any] = "l1",
    calibration: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
    amount: float | None = None,
    threshold: float | None = None,
    scope: Scope = "group",
    floor: float = 0.1,
    multiple: int = 1,
    skip: Sequence[str] = (),
    sensitivity: Sensitivity | None = None,
    uniform: bool = False,
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
        amount: as for ``plan``, in place of a budget.
        threshold: as for ``plan``, in place of a budget.
        scope: as for ``plan``.
        floor: as for ``plan``.
        multiple: as for ``plan``.
        skip: as for ``plan``.
        sensitivity: as for ``plan``.
        uniform: the same width in every layer of a kind, so that a configuration (of a
            Transformers model) can say it; may remove a little more than the budget asks for.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> result = sec.prune(model, torch.zeros(1, 4), sec.Budget(params=0.5))
        >>> result.report.params_removed >= 0.5
        True
    """
    network, names = trace(model, example_inputs), layer_names(model, skip)

    def planner(scores: Scores) -> Cut:
        planned = plan(
            network,
            scores,
            budget,
            amount=amount,
            threshold=threshold,
            scope=scope,
            floor=floor,
            multiple=multiple,
            skip=skip,
            sensitivity=sensitivity,
        )
        return make_uniform(network, scores, planned, names) if uniform else planned

    scores = score_for(network, criterion, planner, data=calibration, loss=loss, seed=seed)
    cut = planner(scores)
    small = apply(model, cut, example_inputs, network=network)
    return Pruned(small, cut, report_of(small), scores)


@takes(
    model=MODEL,
    criterion=CRITERION,
    training=_TRAINING.or_none(),
    stop=_STOP.or_none(),
    loss=LOSS,
    directory=PATH.or_none(),
    fresh=FLAG,
    watcher=_WATCHER.or_none(),
    skip=LAYERS,
    task=_TASK.or_none(),
    train_step=FUNCTION.or_none(),
    evaluate=FUNCTION.or_none(),
    metric=_METRIC.or_none(),
)
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
    task: str | LearningTask | None = None,
    metric: Any = None,
    train_step: Callable[[Any, Any], Any] | None = None,
    evaluate: Callable[[Any], float] | None = None,
    scope: Scope = "group",
    floor: float = 0.1,
    multiple: int = 1,
    skip: Sequence[str] = (),
    rewind: Rewind | None = None,
    until_recovered: bool = False,
    calibration_batches: int = 4,
    measure_speed: bool = True,
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
        training: how to train; None takes the dense model as trained, and retrains a Keras model
            as it was compiled.
        loss: as for ``prune``; training is by it too, or by cross-entropy.
        stop: when to end; None: when a round does not come within half a point of accuracy.
        directory: keeps the study there, with its report; one that was begun there goes on.
        fresh: start over where the directory holds a study.
        watcher: told what happens.
        task: what the model is for, where it is not to classify images: "classification" (of
            anything, with batches of any kind), "segmentation", "detection",
            "language-modelling", "masked-language-modelling", "regression", "embedding"; or a
            ``LearningTask``. Accuracy, in the history and in ``stop.tolerance``, is then the task's
            metric, in its own units, its sign turned where lower is better.
        metric: what models are chosen by, in place of the task's: (outputs, targets) -> numbers,
            something of torchmetrics, or a name such as "f1".
        train_step: (model, batch) -> the batch's loss, in place of the task's.
        evaluate: (model) -> the metric; in place of ``metric``.
        scope: as for ``plan``.
        floor: never leave a group with less: a share of its channels in the dense model, or a
            number if 1 or more.
        multiple: as for ``plan``.
        skip: as for ``plan``.
        rewind: "weights", "learning-rate" or "lottery": see ``Pruning``.
        until_recovered: end a round's fine-tuning at its first evaluation within the tolerance.
        calibration_batches: training batches shown to a criterion that needs data.
        measure_speed: measure images a second after each round.

    Returns:
        The result: ``.model``, ``.cut``, ``.report``, ``.history``, ``.directory``.

    Raises:
        SecateursError: what was asked for cannot be done; found, if it can be, before any training.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> data = torch.randn(32, 4), torch.arange(32) % 2
        >>> result = sec.iterate(
        ...     model, data, data, step=0.25,
        ...     training=sec.Training(fine_tune_batches=2, batch_size=16),
        ...     stop=sec.Stop(rounds=1, tolerance=None),
        ... )
        >>> result.model[0].out_features
        6
    """
    own = criterion if callable(criterion) else None
    name = getattr(criterion, "__name__", "own") if callable(criterion) else criterion
    return carry_out(
        model,
        Sources(train, validation, test),
        training=training or _training_of(model),
        pruning=Pruning(
            step=step,
            criterion=name,
            scope=scope,
            floor=floor,
            multiple=multiple,
            skip=layer_names(model, skip),
            rewind=rewind,
            until_recovered=until_recovered,
            calibration_batches=calibration_batches,
            measure_speed=measure_speed,
        ),
        stop=stop or Stop(),
        criterion=own,
        loss=loss,
        directory=directory,
        fresh=fresh,
        watcher=watcher,
        learning=_learning(
            model, train, task, loss=loss, metric=metric, train_step=train_step, evaluate=evaluate
        ),
    )


def _learning(
    model: Any, train: Any, task: str | LearningTask | None, **own: Any
) -> LearningTask | None:
    """The task that was asked for, of the model's framework."""
    ready = getattr(backend_of(model), "TASKS", None)
    others = task is not None or any(own[name] is not None for name in own if name != "loss")
    if ready is None and not others:
        return None  # a Keras model is trained as it was compiled; the loss is for criteria
    if not others and is_labelled_images(train):
        task = None if own["loss"] is None else "classification"
    return task_of(task, ready or {}, **own)


def _training_of(model: Any) -> Training:
    """How to train where nothing is said."""
    return backend_of(model).training_of(model)
