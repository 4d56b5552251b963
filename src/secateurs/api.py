"""The public functions; each dispatches to the framework of the model that it is given.

Neither framework is imported here: whoever holds a model has imported its framework already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    NAMES,
    NUMBER,
    NUMBERS,
    OPTIMIZER,
    OUTPUTS,
    PATH,
    PROOF,
    SEED,
    SENSITIVITY,
    TEXT,
    THRESHOLD,
    Kind,
    instance,
    is_labels,
    is_whole,
    layer_names,
    takes,
    whole_number,
)
from secateurs.backends import Outputs, backend_named, backend_of, framework_of
from secateurs.calibration.ablation import Ablation
from secateurs.calibration.examples import rows_of
from secateurs.calibration.racing import Scope
from secateurs.channels.cut import CUT, Cut
from secateurs.channels.network import NETWORK, Network
from secateurs.channels.proof import CutReport, report_of
from secateurs.criteria import scoring
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import AUTO
from secateurs.criteria.scoring import Scores
from secateurs.deployment.exporter import weigh_written
from secateurs.errors import BudgetError, DataError, SecateursError, UnknownNameError
from secateurs.files import check_model_suffix
from secateurs.measurement.latency_model import LatencyModel
from secateurs.planning.auto_criterion import scores_at_half
from secateurs.planning.budget import Budget
from secateurs.planning.damage_curves import Sensitivity
from secateurs.planning.meeting import judge_by_task, meet, needs_trials
from secateurs.planning.planner import LATENCY_MODEL
from secateurs.planning.profiling import profile_network
from secateurs.planning.trials import Trial
from secateurs.planning.units import Limit
from secateurs.reconstruction.augmented_copies import AugmentedCopies
from secateurs.reconstruction.depth import (
    BlockLoss,
    blocks_that_went,
    limit_what_blocks_leave,
    remove_depth,
)
from secateurs.reconstruction.pruner import (
    Distilling,
    Judging,
    Pruner,
    Request,
    open_workshop,
    repair_model,
)
from secateurs.reconstruction.trade_off import SHARES, Frontier, find_frontier
from secateurs.settings.pruning import Allocation, Pruning, Rewind
from secateurs.settings.study import Configuration, Stop
from secateurs.settings.training import Training
from secateurs.study.learning import learning_of
from secateurs.study.run import Iterated, run_study
from secateurs.study.sources import Sources
from secateurs.training.callbacks import Watcher
from secateurs.training.distillation import ImageChange
from secateurs.training.feed import Augmentation, is_labelled_images
from secateurs.training.objectives import (
    first_of,
    inputs_to_trace,
    kind_of_outputs,
    label_tokens,
    loss_of,
)
from secateurs.training.task import LearningTask

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
    "a metric's name, a function of (outputs, targets), or something of torchmetrics or Keras",
    lambda value: isinstance(value, str) or (callable(value) and not isinstance(value, type)),
)
_DISTIL = Kind(
    'a number of steps, such as 300, or seconds, such as "60s"',
    lambda value: isinstance(value, str) or is_whole(value, 1),
).or_none()
_DEPTH = Kind(
    "True, a share or number of blocks, or their names",
    lambda value: value is True or NUMBER.accepts(value) or LAYERS.accepts(value),
    BudgetError,
    "Such as depth=0.25 or depth=['layer3.1']; network.blocks lists them.",
).or_none()
_AMOUNTS = ("amount", "threshold", "sensitivity")
"""Planning options that set how many channels are removed without a budget."""
_AUGMENTATION = Kind(
    "a secateurs.Augmentation, or a function (images, random) -> images",
    lambda value: isinstance(value, Augmentation) or FUNCTION.accepts(value),
    DataError,
    "Such as augmentation=secateurs.Augmentation(flip=True, shift=2).",
).or_none()
_SOURCES = Kind(
    "what each image was taken from: names, paths or whole numbers, one an image",
    is_labels,
    DataError,
).or_none()
_TRACK = Kind(
    "a tracker's name, or several",
    lambda value: isinstance(value, str) or NAMES.accepts(value),
    UnknownNameError,
    "Such as track='tensorboard'.",
)
_WATCHER = instance(Watcher, "a secateurs.Watcher", SecateursError)


@takes(model=MODEL, outputs=OUTPUTS)
def trace(model: Any, example_inputs: Any = None, *, outputs: Outputs | None = None) -> Network:
    """Find the channels of a model and everything that is coupled to them.

    Args:
        model: a PyTorch module or a Keras model, in train or eval mode; it is not changed.
        example_inputs: an array or tensor, or a tuple or dictionary of them, as the model takes.
            With a batch of one, MACs are counted per example. Not needed for Keras models.
        outputs: names or positions of the outputs that you use, such as ``"logits"`` or
            ``[0, "aux.boxes"]``: channels that affect only other outputs may be removed, and the
            proof compares these outputs only. None uses all. For a Keras model, choose outputs
            with ``keras.Model(inputs, [...])`` instead.

    Returns:
        The network: ``.groups``, ``.frozen``, ``.params()``, ``.macs()``; ``print`` shows a table.

    Raises:
        ModelError: the model's forward raises on these inputs, or this is not a model.
        UnknownNameError: the model has no output of this name.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> [(group.name, len(group)) for group in network.groups]
        [('0', 8)]
    """
    return backend_of(model).trace(model, example_inputs, outputs=outputs)


@takes(
    model=MODEL,
    cut=CUT,
    optimizer=OPTIMIZER,
    network=NETWORK.or_none(),
    proof=PROOF,
    outputs=OUTPUTS,
)
def apply(
    model: Any,
    cut: Cut,
    example_inputs: Any = None,
    *,
    optimizer: Any = None,
    network: Network | None = None,
    proof: bool | Literal["independent"] = True,
    outputs: Outputs | None = None,
) -> Any:
    """Apply a cut: build the smaller model and prove it against the masked twin of the dense one.

    Args:
        model: the model that the cut was planned for; it is not changed.
        cut: what to remove, as ``plan`` or ``network.cut`` returns it.
        example_inputs: inputs that both models are run on for the proof; None: those of
            ``network``.
        optimizer: optimizer of the model, whose state is sliced like the parameters; then
            (model, optimizer) is returned.
        network: trace of the model, where there is one already; saves tracing it again.
        proof: False skips the proof; "independent" adds a second one that uses none of the
            tracing rules.
        outputs: as for ``trace``; None: those that ``network`` was traced for.

    Returns:
        The small model; ``report_of`` gives the proof and everything removed so far.

    Raises:
        CutError: the cut does not fit the model, or the proof does not hold.

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
        model,
        cut,
        example_inputs,
        optimizer=optimizer,
        network=network,
        proof=proof,
        outputs=outputs,
    )


@takes(
    network=NETWORK,
    criterion=CRITERION,
    data=DATA_GIVEN,
    loss=LOSS,
    seed=SEED,
    task=_TASK.or_none(),
)
def score(
    network: Network,
    criterion: str | Callable[[GroupData], Any] = "l1",
    *,
    data: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
    task: str | LearningTask | None = None,
) -> Scores:
    """Score every channel that can be pruned.

    Args:
        network: as returned by ``trace``; weights are read as they are now.
        criterion: a name (``secateurs criteria`` lists them) or a function of ``GroupData`` that
            returns one number for each channel; or "auto": several criteria each cut half of the
            parameters, and the one whose cut has the lowest calibration loss is used (see
            ``tournament``).
        data: calibration data, for criteria that need it: (images, labels) as two arrays, images
            alone where no labels are needed, or an iterable of such batches.
        loss: (outputs, labels) -> one loss for each image, in the model's framework; None is
            cross-entropy.
        seed: seed of stochastic criteria.
        task: what the model is for, as for ``iterate``; its loss is used where ``loss`` is None.

    Raises:
        UnknownNameError: no criterion, or no task, has this name.
        DataError: the criterion needs calibration data and received none, or none it can use.
        ModelError: weights hold NaN; the message names the layer.
        SecateursError: a user-defined criterion returned the wrong number of scores.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> sec.score(network, "l1")
        <Scores by l1: 8 channels in 1 groups>
    """
    if data is not None:
        data = label_tokens(task, data)
        loss = loss_of(network, task, loss, data)
    if criterion == AUTO:
        return scores_at_half(network, data, loss=loss, seed=seed)
    return scoring.score(network, criterion, data=data, loss=loss, seed=seed)


@takes(model=MODEL, channels=CHANNELS, outputs=OUTPUTS)
def delete_channels(
    model: Any,
    channels: Mapping[str, Sequence[int]],
    example_inputs: Any = None,
    *,
    outputs: Outputs | None = None,
) -> Any:
    """Remove the given filters and everything coupled to them, and prove the result.

    Args:
        model: the model to cut; it is not changed.
        channels: layer name -> indices of the filters to remove, ``{"layer1.0.conv1": [0, 4]}``.
        example_inputs: inputs of the model, as for ``trace``.
        outputs: names of the outputs that you use, as for ``trace``.

    Returns:
        A new, smaller model.

    Raises:
        UnknownNameError: no such layer.
        CutError: a filter cannot be removed; the message says why.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> small = sec.delete_channels(model, {"0": [0, 4]}, torch.zeros(1, 4))
        >>> small[0].out_features, small[2].in_features
        (6, 6)
    """
    return backend_of(model).delete_channels(model, channels, example_inputs, outputs=outputs)


@takes(model=MODEL, path=PATH)
def save(model: Any, path: str | Path) -> None:
    """Write a model's weights together with the cut that made it from the dense model; no pickle.

    Args:
        model: a cut or a dense model.
        path: path of the file, written atomically: safetensors, or a Keras model's own format
            where it ends in ``.keras``.

    Raises:
        StudyError: the file cannot be written, or its suffix belongs to another format.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> import tempfile
        >>> small = sec.prune(model, torch.zeros(1, 4), amount=0.5).model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sec.save(small, f"{folder}/small.safetensors")
    """
    path, backend = Path(path), backend_of(model)
    if not (path.suffix == ".keras" and framework_of(model) == "keras"):
        check_model_suffix(path)
    backend.save(model, path)


@takes(model=MODEL, path=PATH, ema=FLAG)
def load(model: Any, path: str | Path, *, ema: bool = False) -> Any:
    """Load what ``save`` wrote into a freshly built dense model; returns a new, cut one.

    Plain checkpoints are read too: .pt, .pth, Lightning's .ckpt or .safetensors, also with the
    prefixes that DataParallel or ``torch.compile`` put before the names.

    Args:
        model: the dense model, built as before; it is not changed.
        path: path of the file.
        ema: load a checkpoint's averaged weights (PyTorch models).

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
    task=_TASK.or_none(),
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
    task: str | LearningTask | None = None,
) -> Ablation:
    """Measure how the loss changes when each channel alone is removed, class by class.

    Args:
        network: as returned by ``trace``.
        data: (images, labels) as two arrays, or an iterable of such batches.
        mode: "exact" removes every channel on every image; "racing" only finds the channels
            whose removal raises the loss least.
        share: share of the channels that racing looks for, in (0, 1).
        scope: racing looks for the lowest of the whole "network", or of each "group".
        confidence: in racing mode, the expected share of the channels found that are right.
        loss: (outputs, labels) -> one loss for each image; None is cross-entropy.
        task: what the model is for, as for ``iterate``; its loss is used where ``loss`` is None.

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
    data = label_tokens(task, data)
    loss = loss_of(network, task, loss, data)
    return backend_named(network.source.framework).ablate_channels(
        network, data, mode=mode, share=share, scope=scope, confidence=confidence, loss=loss
    )


@dataclass(frozen=True, slots=True)
class Pruned:
    """Result of ``prune``.

    Attributes:
        model: the small model.
        cut: what was removed.
        report: the proof, and the costs before and after.
        scores: how channels were ranked; with ``criterion="auto"``, ``scores.tournament`` says
            which criterion won, and why.
        trials: the cuts that were made and measured on the way, for limits that only a cut model
            can be checked against: a latency, an accuracy drop, peak memory.
        blocks: residual blocks removed whole, in the order of removal, and what each cost.
    """

    model: Any
    cut: Cut
    report: CutReport
    scores: Scores
    trials: tuple[Trial, ...] = ()
    blocks: tuple[BlockLoss, ...] = ()

    def __str__(self) -> str:
        return str(self.report)


@takes(
    model=MODEL,
    budget=BUDGET,
    criterion=CRITERION.or_none(),
    calibration=DATA_GIVEN,
    task=_TASK.or_none(),
    metric=_METRIC.or_none(),
    loss=LOSS,
    repair=FLAG.or_none(),
    distil=_DISTIL,
    augmentation=_AUGMENTATION,
    copies=whole_number(0),
    seed=SEED,
    proof=PROOF,
    outputs=OUTPUTS,
    depth=_DEPTH,
    amount=NUMBER.or_none(),
    threshold=THRESHOLD.or_none(),
    scope=TEXT.or_none(),
    floor=NUMBER.or_none(),
    multiple=whole_number(1).or_none(),
    skip=LAYERS,
    sensitivity=SENSITIVITY.or_none(),
    latency_model=LATENCY_MODEL,
    uniform=FLAG,
    output=TEXT.or_none(),
    sources=_SOURCES,
    second_domain=DATA_GIVEN,
)
def prune(
    model: Any,
    example_inputs: Any,
    budget: Budget | str | Mapping[str, Limit] | None = None,
    *,
    criterion: str | Callable[[GroupData], Any] | None = None,
    calibration: Any = None,
    validation: Any = None,
    task: str | LearningTask | None = None,
    metric: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    repair: bool | None = None,
    distil: int | str | None = None,
    augmentation: Augmentation | ImageChange | None = None,
    copies: int = 0,
    seed: int = 0,
    proof: bool | Literal["independent"] = True,
    outputs: Outputs | None = None,
    depth: bool | float | Sequence[str] | None = None,
    amount: float | None = None,
    threshold: float | None = None,
    scope: Scope | None = None,
    floor: float | None = None,
    multiple: int | None = None,
    skip: Sequence[str] = (),
    sensitivity: Sensitivity | None = None,
    latency_model: LatencyModel | None = None,
    uniform: bool = False,
    output: str | None = None,
    sources: Sequence[Any] | None = None,
    second_domain: Any = None,
) -> Pruned:
    """Trace, allocate, select, cut, prove and repair (with images) in one call.

    Args:
        model, example_inputs, outputs: as for ``trace``; the model is not changed.
        budget: limits of the small model. A latency is checked by timing it beside the dense one.
        criterion: ranks channels; None: structured OBS, "l1" without images; "auto": the best.
        calibration: (images, labels), images alone, or batches of such; 512 images are plenty.
        validation: what ``drop`` is measured on: labelled data, or a function model -> metric.
        task, metric: what ``drop`` measures, if not accuracy; as for ``iterate``.
        loss, seed, proof: as for ``score`` and ``apply``; with labels, curves measure this loss.
        repair: refit kept weights; None: where there are images (4, or 64 with a criterion).
        distil, augmentation, output, sources, second_domain: see ``Distilling``, ``Judging``.
        copies: of each image, changed by ``augmentation``, that weights are fitted to as well.
        depth: blocks to remove first: a share, number or names; True weighs them against widths.
        amount, threshold, scope, floor, multiple, skip, sensitivity, latency_model: as for
            ``plan``; the default floor is 1/16 where the allocation is measured.
        uniform: the same width in every layer of a kind, as a Transformers configuration wants.

    Raises:
        SecateursError: no cut meets the budget, or the data cannot be used.

    Example:
        >>> import torch, secateurs as sec
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> sec.prune(model, torch.zeros(1, 4), sec.Budget(params=0.5)).report.params_removed >= 0.5
        True
    """
    return _prune(**locals())


def _prune(
    model: Any,
    example_inputs: Any,
    budget: Budget | str | Mapping[str, Limit] | None,
    *,
    outputs: Outputs | None,
    calibration: Any,
    validation: Any,
    task: str | LearningTask | None,
    metric: Any,
    distil: int | str | None,
    augmentation: Augmentation | ImageChange | None,
    copies: int,
    output: str | None,
    sources: Sequence[Any] | None,
    second_domain: Any,
    skip: Sequence[str],
    criterion: str | Callable[[GroupData], Any] | None,
    loss: Callable[[Any, Any], Any] | None,
    repair: bool | None,
    seed: int,
    proof: bool | Literal["independent"],
    uniform: bool,
    depth: bool | float | Sequence[str] | None,
    **planning: Any,
) -> Pruned:
    """Sort the arguments of ``prune`` by what uses them, and run it; the rest is for ``plan``."""
    arguments = {**locals(), **planning}
    del arguments["planning"]
    example_inputs = inputs_to_trace(model, example_inputs, calibration)
    network = trace(model, example_inputs, outputs=outputs)
    effort = Distilling.parse(distil, augmentation)
    judging = Judging(output or kind_of_outputs(task), sources, second_domain)
    joint = depth is True
    more = AugmentedCopies.parse(copies, augmentation)
    request = Request(
        criterion, loss, repair, effort, judging, seed, proof, uniform, joint, copies=more
    )
    wanted = None if budget is None else Budget.of(budget)
    if depth is not None and depth is not True:
        return _prune_depth_first(network, wanted, request, arguments)
    planning = _without_none({**planning, "skip": layer_names(model, skip)})
    if wanted is not None and wanted.wants_speed and "latency_model" not in planning:
        planning["latency_model"] = profile_network(network, wanted.conditions)
    predicted = None if wanted is None else wanted.first_guess
    shop = open_workshop(model, network, calibration, predicted, request, planning)
    if wanted is None or not needs_trials(wanted):
        small, cut = shop.best(predicted)
        gone = blocks_that_went(cut, shop.blocks)
        return Pruned(small, cut, report_of(small), shop.scores, (), gone)
    latency_model = planning.get("latency_model")
    weigh = partial(weigh_written, example_inputs=network.source.example_inputs)
    judge = judge_by_task(network, validation, task, metric) if "drop" in wanted.limits else None
    measured_by = (latency_model, judge, weigh)
    small, chosen, trials = meet(network, wanted, shop.plan, shop.make, *measured_by)
    gone = blocks_that_went(chosen.cut, shop.blocks)
    return Pruned(small, chosen.cut, report_of(small), shop.scores, tuple(trials), gone)


def _prune_depth_first(
    network: Network, wanted: Budget | None, request: Request, arguments: Mapping[str, Any]
) -> Pruned:
    """Remove whole blocks first; then channels of what is left, where a budget asks for it."""
    narrower = wanted is not None or any(arguments[name] is not None for name in _AMOUNTS)
    wanted = None if wanted is None else limit_what_blocks_leave(network, wanted)
    first = replace(request, distil=None) if narrower else request
    model, depth = arguments["model"], arguments["depth"]
    fewer = remove_depth(model, network, depth, arguments["calibration"], first)
    if not narrower:
        report = report_of(fewer.model)
        return Pruned(fewer.model, fewer.cut, report, Scores({}, "depth"), (), fewer.order)
    rest = _prune(**{**arguments, "model": fewer.model, "budget": wanted, "depth": None})
    return replace(rest, cut=fewer.cut.then(rest.cut), blocks=fewer.order)


def _without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the options that were not given: they are measured, or have their own defaults."""
    return {name: value for name, value in options.items() if value is not None}


@takes(
    small=MODEL,
    dense=MODEL,
    images=DATA_GIVEN,
    distil=_DISTIL,
    augmentation=_AUGMENTATION,
    copies=whole_number(0),
    seed=SEED,
    output=TEXT.or_none(),
    sources=_SOURCES,
    second_domain=DATA_GIVEN,
)
def repair(
    small: Any,
    dense: Any,
    images: Any,
    *,
    example_inputs: Any = None,
    distil: int | str | None = None,
    augmentation: Augmentation | ImageChange | None = None,
    copies: int = 0,
    seed: int = 0,
    output: str | None = None,
    sources: Sequence[Any] | None = None,
    second_domain: Any = None,
) -> Any:
    """Refit a cut model's weights to the dense model's activations, layer by layer; no labels.

    The cut may have been made by ``apply``, by ``delete_channels``, by hand or by another tool.
    Which channels were kept is read from the model's report, or found by comparing weights: the
    small model's must still be slices of the dense one's.

    Args:
        small: the cut model; it is not changed.
        dense: the model that it was cut from; it is not changed.
        images: calibration images, as for ``prune``.
        example_inputs: inputs of both models; None uses the first of the images.
        distil: as for ``prune``.
        augmentation, copies: as for ``prune``.
        seed: seed of the random splits and samples.
        output: kind of the models' outputs; see ``Judging``.
        sources: what each image was taken from; see ``Judging``.
        second_domain: images of another domain to judge by as well; see ``Judging``.

    Returns:
        A new model with the most faithful weights found, which may be ``small``'s own;
        ``report_of(model).fidelity`` gives the fidelity after each step.

    Raises:
        CutError: it cannot be determined which channels the small model kept.
        DataError: the images cannot be used.
        ModelError: the two models do not run the same operations.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> small = sec.delete_channels(model, {"0": [0, 4]}, torch.zeros(1, 4))
        >>> better = sec.repair(small, model, torch.randn(256, 4))
        >>> better[0].out_features, sec.report_of(better).fidelity.kept in ("dropped", "repaired")
        (6, True)
    """
    first = first_of(images) if example_inputs is None else None
    if isinstance(first, Mapping):
        example_inputs = inputs_to_trace(dense, rows_of(first, [0]), images)
    judging = Judging(output, sources, second_domain)
    effort, more = (
        Distilling.parse(distil, augmentation),
        AugmentedCopies.parse(copies, augmentation),
    )
    request = Request(None, None, True, effort, judging, seed, copies=more)
    return repair_model(small, dense, images, example_inputs, request)


@takes(
    model=MODEL,
    calibration=DATA_GIVEN,
    unit=TEXT,
    shares=NUMBERS,
    criterion=CRITERION.or_none(),
    loss=LOSS,
    distil=_DISTIL,
    augmentation=_AUGMENTATION,
    copies=whole_number(0),
    seed=SEED,
    floor=NUMBER.or_none(),
    multiple=whole_number(1).or_none(),
    skip=LAYERS,
    output=TEXT.or_none(),
    sources=_SOURCES,
    second_domain=DATA_GIVEN,
)
def frontier(
    model: Any,
    example_inputs: Any,
    *,
    calibration: Any,
    unit: str = "macs",
    shares: Sequence[float] = SHARES,
    criterion: str | Callable[[GroupData], Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    distil: int | str | None = None,
    augmentation: Augmentation | ImageChange | None = None,
    copies: int = 0,
    seed: int = 0,
    floor: float | None = None,
    multiple: int | None = None,
    skip: Sequence[str] = (),
    output: str | None = None,
    sources: Sequence[Any] | None = None,
    second_domain: Any = None,
) -> Frontier:
    """Measure the trade-off curve: cut, prove, repair and judge the model at a dozen budgets.

    What does not depend on the budget is done once. ``found.model("macs=0.25")`` makes a point.

    Args:
        model, example_inputs: as for ``trace``; the model is not changed.
        calibration: as for ``prune``; with labels, accuracies are measured.
        unit: unit of the budgets: "macs", "params", "channels" or "size_mb".
        shares: budgets as fractions of the dense model's cost, each in (0, 1); one or several.
        criterion, loss, seed, distil, augmentation, copies: as for ``prune``, for each model.
        floor, multiple, skip: as for ``plan``; the default floor is 1/16.
        output, sources, second_domain: how models are judged; see ``Judging``.

    Returns:
        The points; ``print`` shows a table, ``.figure()`` draws them, ``.knee`` names the one
        beyond which most is lost.

    Raises:
        BudgetError: a share is out of range, or none can be met.
        DataError: the calibration data cannot be used.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> images = torch.randn(256, 4)
        >>> found = sec.frontier(model, images[:1], calibration=images, shares=(0.3, 0.6))
        >>> found.model("macs=0.6")[0].out_features < 8
        True
    """
    network = trace(model, inputs_to_trace(model, example_inputs, calibration))
    judging = Judging(output, sources, second_domain)
    stays = layer_names(model, skip)
    more = AugmentedCopies.parse(copies, augmentation)
    request = Request(criterion, loss, True, None, judging, seed, skip=stays, copies=more)
    pruner = Pruner.of(model, network, calibration, request)
    effort = Distilling.parse(distil, augmentation)
    planning = _without_none({"floor": floor, "multiple": multiple, "skip": stays})
    return find_frontier(pruner, unit=unit, shares=shares, distil=effort, **planning)


@takes(
    model=MODEL,
    criterion=CRITERION.or_none(),
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
    outputs=OUTPUTS,
    track=_TRACK,
)
def iterate(
    model: Any,
    train: Any,
    validation: Any,
    test: Any = None,
    *,
    step: float = 0.05,
    criterion: str | Callable[[GroupData], Any] | None = None,
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
    scope: Scope | None = None,
    allocation: Allocation | None = None,
    floor: float = 0.1,
    multiple: int | None = None,
    skip: Sequence[str] = (),
    rewind: Rewind | None = None,
    until_recovered: bool = False,
    repair: bool | None = None,
    calibration_batches: int = 4,
    measure_speed: bool = True,
    outputs: Outputs | None = None,
    track: str | Sequence[str] = (),
) -> Iterated:
    """Train, then remove a share of the channels and fine-tune, round after round.

    The result is the smallest model within the tolerance of the dense one's validation accuracy.
    Test data are used once, at the end. All randomness depends on ``training.seed``.

    Args:
        model: the dense model; it is not changed.
        train, validation, test: a ``secateurs.data.Split``; a pair of arrays (images, labels from
            0); or batches of such pairs: a list, a DataLoader.
        step, criterion, scope, allocation, floor, multiple, skip, rewind, until_recovered, repair,
            calibration_batches, measure_speed: settings of each round; see ``Pruning``.
        outputs: names of the model's outputs that you use, as for ``trace``; None for all.
        training, stop: how to train, and when to end. A compiled Keras model keeps its optimizer.
        directory, fresh: where the study is kept; one found there is resumed unless ``fresh``.
        watcher, track: a callback for the end of each round; names of Accelerate's trackers.
        task, loss, metric, train_step, evaluate: what is learned, if not image classification;
            see ``LearningTask``. ``task`` is one of these, or the name of a built-in one.

    Example:
        >>> import torch, secateurs as sec
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> data, stop = (torch.ones(9, 4), torch.arange(9) % 2), sec.Stop(rounds=1, tolerance=None)
        >>> sec.iterate(model, data, data, step=0.25, stop=stop).model[0].out_features
        6
    """
    return _iterate(**locals())


def _iterate(
    model: Any,
    train: Any,
    validation: Any,
    test: Any,
    *,
    criterion: str | Callable[[GroupData], Any] | None,
    training: Training | None,
    stop: Stop | None,
    skip: Sequence[str],
    directory: str | Path | None,
    fresh: bool,
    watcher: Watcher | None,
    task: str | LearningTask | None,
    loss: Callable[[Any, Any], Any] | None,
    metric: Any,
    train_step: Callable[[Any, Any], Any] | None,
    evaluate: Callable[[Any], float] | None,
    track: str | Sequence[str],
    **rounds: Any,
) -> Iterated:
    """Sort the arguments of ``iterate`` by what uses them, and run it; the rest is per round."""
    name = getattr(criterion, "__name__", "own") if callable(criterion) else criterion
    parts = {"loss": loss, "metric": metric, "train_step": train_step, "evaluate": evaluate}
    return run_study(
        model,
        Sources(train, validation, test),
        Configuration(
            training=backend_of(model).default_training(model, training),
            pruning=Pruning(criterion=name, skip=layer_names(model, skip), **rounds),
            stop=stop or Stop(),
        ),
        criterion=criterion if callable(criterion) else None,
        loss=loss,
        directory=directory,
        fresh=fresh,
        watcher=watcher,
        learning=_learning(model, train, task, parts),
        track=(track,) if isinstance(track, str) else tuple(track),
    )


def _learning(
    model: Any, train: Any, task: str | LearningTask | None, parts: Mapping[str, Any]
) -> LearningTask | None:
    """The learning task that these arguments describe, for the model's framework."""
    given = {name for name, part in parts.items() if part is not None}
    if task is None and given <= ({"loss"} if framework_of(model) == "keras" else set()):
        # A Keras model is trained as it was compiled. Where that is classification, there is no
        # task of its own, and the loss given here is for criteria only.
        found = backend_of(model).default_task(model, train)
        return found if found is None else found.with_own(loss=parts["loss"])
    if is_labelled_images(train) and task is None and parts["train_step"] is None:
        task = "classification" if any(one is not None for one in parts.values()) else None
    return learning_of(model, task, **parts)
