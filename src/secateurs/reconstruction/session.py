"""What is computed from calibration images once for any budget; then one cut for each budget.

images -> sums of the dense network -> order in which channels are removed (``removal_order``)
-> loss of each group at each width (``error_curves``)
budget -> widths (``allocation``) -> the cut, proven -> least squares in step (the walk)
-> the most faithful result, judged on images that were not fitted
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.backends import Loss, Repairing, backend_named, repairing
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.examples import StepLoss
from secateurs.calibration.peers import ALONE, Peers
from secateurs.channels.arrays import Floats
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, keep_report_, report_of
from secateurs.errors import DataError
from secateurs.planning.error_curves import (
    FEWER_SHARES,
    FEWEST_SHARES,
    SHARES,
    GroupTrial,
    MeasuredContraction,
    curves_from,
    orders_of,
    trials_of,
)
from secateurs.planning.removal_order import list_allowed
from secateurs.reconstruction.augmented_copies import AugmentedCopies
from secateurs.reconstruction.calibration import Calibration, in_batches
from secateurs.reconstruction.fidelity import (
    LOSS,
    Fidelity,
    Judge,
    OutputArrays,
    answers_in,
    kind_of,
    some_places,
)
from secateurs.reconstruction.layers import Walked
from secateurs.reconstruction.report import FidelityReport, Stage

Orders = Mapping[str, NDArray[np.int64]]

MACS_FOR_CURVES = 6e11
"""MACs that measuring curves may take: about half a minute of one core. Beyond, fewer images and
widths are used."""

MOST_FOR_CURVES = 3 * MACS_FOR_CURVES
"""MACs for the fewest images and widths. Beyond, not every group is measured."""

LAST_RESORT = 1e3
"""Loss of groups that cannot be measured, relative to the largest of all others."""

SUFFIX = 0.5
"""Average share of a pass that a trial takes: it starts where its group is first read."""

LEAST_TO_JUDGE = 16
LEAST_TEXTS = 4
"""Least number of texts, each of which gives many answers."""

LEAST_FOR_MOMENTS = 64
MACS_FOR_MOMENTS = 1e11
"""MACs that re-estimating moments may take. Where a pass is expensive, images are large, and each
has hundreds of places that contribute to a channel's mean and variance."""

ANEW = ", moments anew"
"""Suffix of the names of stages with re-estimated moments of batch normalisation."""
UNLIKE = 1.0
"""Squared distance of activation means, in standard deviations of training, that is warned of."""


@dataclass(eq=False)
class DenseReference:
    """A dense model and its outputs on calibration images.

    Args:
        model: the user's model; never changed.
        network: its trace.
        calibration: the images.
        output: kind of its outputs, or None to infer it from their values.
        second_domain: images of another domain to judge by as well.
        peers: processes that share the work on the images, all of which hold them.
        copies: augmented copies of the images that weights are fitted to; None for none.
        seed: seed of their changes.

    Attributes:
        mine: the images of this process: all of them, or its part of each part, and the augmented
            copies of those to fit.
        last_layers: names of the layers whose results are compared; none where the model's outputs
            are. A detector's outputs differ in number from image to image, so that only what they
            are chosen from can be compared.
    """

    model: Any
    network: Network
    calibration: Calibration
    output: str | None = None
    second_domain: Sequence[CalibrationBatch] = ()
    peers: Peers = ALONE
    copies: AugmentedCopies | None = None
    seed: int = 0
    mine: Calibration = field(init=False)
    kind: str = field(init=False)
    answers: int = field(init=False)

    def __post_init__(self) -> None:
        source: Any = self.network.source
        self.mine, self.peers = self.calibration.own_part(self.peers)
        self.framework: Repairing = repairing(source.framework)
        self.work, self.example = self.copy(self.model, source.example_inputs)
        self.last_layers = self.framework.last_layers_of(self.work)
        self.mine = self._with_copies(self.mine)
        trace = backend_named(source.framework).trace
        self.work_network = trace(self.work, self.example)
        first = next(iter(self.framework.outputs(self.work, self.judge[:1])))
        if getattr(source, "is_by_values", False):
            _check_rows(first, len(self.judge[0]), self.last_layers)
        # Read from values, which differ from process to process.
        self.kind = self.peers.from_main(lambda: kind_of(first, self.output))
        self.answers = answers_in(first, self.kind)
        self._right = [
            [self._thin(given) for given in self.framework.outputs(self.work, part)]
            for part in self._parts
        ]
        self._warn_if_unlike()

    def _with_copies(self, mine: Calibration) -> Calibration:
        """This process's images with the augmented copies that weights are fitted to as well."""
        if self.copies is None:
            return mine
        images, source = mine.fit.images, self.network.source
        channels_last = False
        if getattr(images, "ndim", 0) == 4:
            *sides, channels = images.shape[1:]
            backend = backend_named(source.framework)
            channels_last = backend.has_channels_last(self.work, (channels, *sides))
        seed = (self.seed, self.peers.rank)
        return replace(mine, fit=self.copies.add(mine.fit, seed, channels_last=channels_last))

    def copy(self, model: Any, example_inputs: Any = None) -> tuple[Any, Any]:
        """A working copy of the dense or a cut model, which returns the outputs that are used."""
        source: Any = self.network.source
        given = self.example if example_inputs is None else example_inputs
        return self.framework.working_copy(
            model,
            given,
            getattr(source, "outputs", None),
            is_by_values=getattr(source, "is_by_values", False),
        )

    def alive_without(self, removed: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask of the working copy's atoms without those removed from the network."""
        if not self.last_layers:
            return self.work_network.alive(removed)
        # A part of the model has equations of its own, but the same channels in its groups.
        whole = {group.name: group for group in self.network.groups}
        gone = [
            group.channels[np.isin(whole[group.name].channels, removed)]
            for group in self.work_network.groups
            if group.name in whole
        ]
        return self.work_network.alive(np.concatenate([*gone, np.zeros(0, np.int64)]))

    def alive_after(self, cut: Cut) -> NDArray[np.bool_]:
        """Mask of the working copy's atoms that a cut of the network keeps."""
        return self.alive_without(self.network.removed_by(cut))

    @property
    def judge(self) -> list[CalibrationBatch]:
        """This process's images for judging, in batches."""
        return in_batches(self.mine.judge)

    @property
    def _parts(self) -> tuple[Sequence[CalibrationBatch], Sequence[CalibrationBatch]]:
        return self.judge, self.second_domain

    def fidelity(self, model: Any) -> Fidelity:
        """Fidelity of a model on images that were not fitted."""
        return self._judge(model, 0)

    def elsewhere(self, model: Any) -> Fidelity | None:
        """Fidelity on images of the second domain; None if none were given."""
        return self._judge(model, 1) if self.second_domain else None

    def _judge(self, model: Any, part: int) -> Fidelity:
        judge = Judge(self.kind)
        if self.last_layers and not self.framework.last_layers_of(model):
            model, _ = self.copy(model)
        found = self.framework.outputs(model, self._parts[part])
        for right, answer in zip(self._right[part], found, strict=True):
            judge.add(right, answer)
        return judge.gather(self.peers).verdict()

    def _thin(self, given: OutputArrays) -> OutputArrays:
        """The part of outputs that is stored: what models are judged by."""
        if self.kind != "categorical":
            return given
        return [some_places(given[0]).copy()] if given[0].ndim == 3 else given

    def _warn_if_unlike(self) -> None:
        found = self.framework.unlike_calibration(self.work, self.judge)
        if found is not None and found[0] > UNLIKE:
            warnings.warn(
                f"calibration images are unlike the training data: in {found[1]}, means of "
                f"activations are {found[0] ** 0.5:.1f} standard deviations from the running "
                "means that batch normalisation keeps. What is fitted to them may not hold for "
                "other inputs; normalise them as in training.",
                UserWarning,
                stacklevel=5,
            )


def _check_rows(outputs: OutputArrays, images: int, last_layers: Sequence[str]) -> None:
    """Refuse results whose number depends on values, so that those of two models differ in shape.

    Raises:
        DataError: a result does not have a row for each image.
    """
    found = [one.shape for one in outputs if one.ndim == 0 or len(one) != images]
    if found:
        given = f"results of {', '.join(last_layers)}" if last_layers else "outputs"
        raise DataError(
            f"expected {given} with a row for each of {images} calibration images; received shape "
            f"{found[0]}. Values decide on the shape: let modules hold the weights of the layers "
            "before that, so that their results can be compared; or leave calibration= out."
        )


@dataclass(frozen=True, eq=False)
class Curves:
    """What is known of a dense network's groups, for any budget.

    Attributes:
        orders: group -> its channels in the order of removal.
        losses: group -> loss of fidelity at every width from 0 to all channels.
        kind: kind of that loss.
        images: number of images that it was measured on.
        seconds: duration of the measurement.
    """

    orders: Orders
    losses: Mapping[str, Floats]
    kind: str
    images: int
    seconds: float


def measure_curves(
    dense: DenseReference,
    *,
    scores: Callable[[], Mapping[str, Floats]],
    orders: Orders | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    skip: Sequence[str] = (),
) -> Curves:
    """Measure the order in which channels are removed, and the loss at each width.

    Args:
        dense: the dense model and its images.
        scores: function that computes scores for groups that no contraction reads by itself.
        orders: orders of another criterion, to use instead of those from the sums.
        loss: (outputs, labels) -> one loss for each image, used if the images have labels;
            otherwise, and for the loss of a training step, which takes the model and its batch, it
            is the distance from the dense model's outputs.
        seed: seed of random samples.
        skip: names of groups or layers that stay whole, for which nothing is measured.
    """
    start = time.perf_counter()
    network = dense.work_network
    allowed = {group.name for group in list_allowed(dense.network, skip)}
    chosen = [group for group in network.groups if group.name in allowed]
    contractions = dense.framework.contractions_of(
        network,
        dense.mine.fit,
        dense.kind,
        seed,
        answers=dense.answers,
        groups=chosen,
        peers=dense.peers,
    )
    foreseen: Mapping[str, Floats] = {}
    if orders is None:
        orders, foreseen = orders_of(network, contractions, scores())
    names = {group.name for group in chosen}
    judging, trials = _trials(dense, contractions, orders, foreseen, names)
    if judging.labels is None or isinstance(loss, StepLoss):
        loss = None
    kind = dense.kind if loss is None else LOSS
    peers = dense.peers
    # Each process plays some of the trials, on all images.
    mine = trials[peers.rank :: peers.count]
    found = dense.framework.judge_trials(network, judging, mine, kind, loss=loss)
    measured: dict[str, dict[int, float]] = {}
    for rank, distances in enumerate(peers.gather([one.distance for one in found])):
        for trial, distance in zip(trials[rank :: peers.count], distances, strict=True):
            measured.setdefault(trial.group, {})[trial.width] = distance
    losses: Mapping[str, Floats] = curves_from(network, measured, foreseen)
    if dense.last_layers:
        orders, losses = _add_unmeasured(dense.network, orders, losses)
    return Curves(orders, losses, kind, len(judging), time.perf_counter() - start)


def _add_unmeasured(
    network: Network, orders: Orders, losses: Mapping[str, Floats]
) -> tuple[Orders, Mapping[str, Floats]]:
    """Add the groups behind a decision by values, which a working copy leaves out.

    Their channels keep their order, and their curves are so steep that all other groups are cut
    first.
    """
    steepest = LAST_RESORT * max((float(loss.max()) for loss in losses.values()), default=1.0)
    all_orders, all_losses = {}, {}
    for group in network.groups:
        name, count = group.name, len(group)
        known = name in losses and len(losses[name]) == count + 1
        falling = steepest * np.linspace(1.0, 0.0, count + 1) ** 2
        all_orders[name] = orders[name] if known else np.arange(count)
        all_losses[name] = losses[name] if known else falling
    return all_orders, all_losses


def _trials(
    dense: DenseReference,
    contractions: Sequence[MeasuredContraction],
    orders: Orders,
    foreseen: Mapping[str, Floats],
    chosen: Collection[str],
) -> tuple[CalibrationBatch, list[GroupTrial]]:
    """(images to judge by, trials), within the cost that measuring may take."""
    network = dense.work_network
    least = max(LEAST_TEXTS, -(-LEAST_TO_JUDGE // dense.answers))
    judging = dense.calibration.curves
    cost = SUFFIX * max(1, network.macs()) / max(1, images_in(dense.example))
    affordable = 0
    for shares in (SHARES, FEWER_SHARES):
        trials = list(trials_of(network, contractions, orders, shares, chosen))
        affordable = int(MACS_FOR_CURVES / (cost * max(1, len(trials))))
        if affordable >= min(4 * least, len(judging)):
            break
    # Repair runs all images through both networks; half of one such pass is little beside it.
    most_macs = max(MOST_FOR_CURVES, cost * len(dense.calibration))
    most = int(most_macs / (cost * least))
    if len(trials) > most:
        trials = list(trials_of(network, contractions, orders, FEWEST_SHARES, chosen))
        trials = _some(network, trials, foreseen, most)
    return judging.rows(slice(0, max(least, affordable))), trials


def _some(
    network: Network, trials: Sequence[GroupTrial], foreseen: Mapping[str, Floats], most: int
) -> list[GroupTrial]:
    """Trials of groups spread along the network, and of all groups without a prediction.

    Every n-th group is taken with n odd: blocks repeat, and an even n could select the same layer
    of each block.
    """
    every = max(1, -(-len(trials) // max(1, most)))
    every += 1 - every % 2
    measured = list(dict.fromkeys(trial.group for trial in trials))
    chosen = set(measured[::every])
    return [one for one in trials if one.group in chosen or one.group not in foreseen]


def images_in(example: Any) -> int:
    """Number of examples in an example input."""
    first = example
    while isinstance(first, (tuple, list, Mapping)):
        first = next(iter(first.values() if isinstance(first, Mapping) else first))
    return len(first) if getattr(first, "shape", ()) else 1


@dataclass(frozen=True, eq=False)
class Repaired:
    """A cut model and how it was made.

    Attributes:
        model: the model with the most faithful weights.
        report: fidelity after each step.
    """

    model: Any
    report: FidelityReport


def repair_cut(
    dense: DenseReference,
    small: Any,
    alive: NDArray[np.bool_],
    *,
    least_squares: bool = True,
    cut: Cut | None = None,
) -> Repaired:
    """Refit a cut model's weights to the dense network's values, if that makes it more faithful.

    Args:
        dense: the dense model and its images.
        small: the cut model; it is not changed.
        alive: mask of the dense network's atoms that it keeps, shape (atoms,).
        least_squares: whether to refit; False only measures.
        cut: cut that made the small model, if it removed whole blocks.

    Returns:
        The most faithful of: the model as it was cut; the refitted model; and the better of these
        with batch normalisation's moments re-estimated, if that is surely better than both.
    """
    start = time.perf_counter()
    framework = dense.framework
    dropped, _ = dense.copy(small)
    stages = [Stage("dropped", dense.fidelity(dropped))]
    models = {"dropped": dropped}
    walked = Walked((), 0)
    if least_squares:
        mine = dense.mine
        twin, _ = dense.copy(small)
        walked = framework.walk(
            dense.work_network, twin, alive, mine.fit, mine.choose, cut, peers=dense.peers
        )
        stages.append(Stage("repaired", dense.fidelity(twin), time.perf_counter() - start))
        models["repaired"] = twin
        _add_reestimated(dense, models, stages)
    best = most_faithful(stages)
    new = framework.copy_of(small)
    if best.name != "dropped":
        framework.copy_weights_(models[best.name], new)
    report = FidelityReport(
        tuple(stages),
        best.name,
        len(dense.calibration),
        walked.layers,
        peak_bytes=walked.peak_bytes,
        second_domain=dense.elsewhere(models[best.name]),
        last_layers=dense.last_layers,
    )
    return Repaired(new, report)


def most_faithful(stages: Sequence[Stage]) -> Stage:
    """The stage whose weights to keep: the nearest to the dense network, by more than noise.

    Re-estimated moments change every layer at the same time, from few images. They usually make
    refitted weights slightly worse, and chance then decides which stage is nearer on the held-out
    images. So they are kept only if they are significantly nearer in a paired comparison of images.
    """
    plain = [stage for stage in stages if not stage.name.endswith(ANEW)]
    best = min(plain, key=lambda stage: stage.fidelity.distance)
    surer = [
        stage
        for stage in stages
        if stage.name.endswith(ANEW) and stage.fidelity.is_surely_below(best.fidelity)
    ]
    return min(surer, key=lambda stage: stage.fidelity.distance, default=best)


def _add_reestimated(dense: DenseReference, models: dict[str, Any], stages: list[Stage]) -> None:
    """Add the nearest stage so far with batch normalisation's moments re-estimated."""
    start = time.perf_counter()
    name = min(stages, key=lambda stage: stage.fidelity.distance).name
    each = max(1, dense.work_network.macs()) / max(1, images_in(dense.example))
    count = max(LEAST_FOR_MOMENTS, int(MACS_FOR_MOMENTS / each))
    images = in_batches(dense.calibration.fit.rows(slice(0, count)))
    again = dense.framework.reestimate_moments(models[name], images)
    if again is not None:
        known_as = f"{name}{ANEW}"
        models[known_as] = again
        seconds = time.perf_counter() - start
        stages.append(Stage(known_as, dense.fidelity(again), seconds))


def keep_fidelity_(model: Any, report: FidelityReport) -> CutReport:
    """Store a model's fidelity in the report that ``report_of`` returns."""
    known = replace(report_of(model), fidelity=report)
    keep_report_(model, known)
    return known
