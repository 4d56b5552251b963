"""Pruning that preserves a network's outputs: allocate, select, cut, prove, repair, distil.

What does not depend on a budget is computed once (``Pruner.of``); a cut then takes seconds.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import takes_known_names
from secateurs.backends import backend_named, backend_of, can_repair, framework_of, repairing
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.padding import two_texts
from secateurs.calibration.peers import ALONE, Peers
from secateurs.calibration.shared_data import share
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import report_of, unwrap
from secateurs.criteria import scoring
from secateurs.criteria.registry import AUTO
from secateurs.criteria.scoring import Scores
from secateurs.errors import BudgetError, CutError, DataError, UnknownNameError
from secateurs.planning.auto_criterion import score_for
from secateurs.planning.budget import Budget
from secateurs.planning.error_curves import GroupTrial
from secateurs.planning.measured import PRICED, plan_measured
from secateurs.planning.planner import plan
from secateurs.planning.uniform import Evenly
from secateurs.reconstruction.augmented_copies import AugmentedCopies
from secateurs.reconstruction.block_losses import measure_blocks
from secateurs.reconstruction.calibration import (
    FEW_IMAGES,
    LEAST_IMAGES,
    Calibration,
    example_from,
    in_batches,
    join_batches,
)
from secateurs.reconstruction.fidelity import Fidelity
from secateurs.reconstruction.matching import match_channels
from secateurs.reconstruction.report import FidelityReport, Stage
from secateurs.reconstruction.session import (
    Curves,
    DenseReference,
    keep_fidelity_,
    measure_curves,
    most_faithful,
    repair_cut,
)
from secateurs.training.distillation import Effort, ImageChange
from secateurs.training.feed import Augmentation

OBS = "obs"
"""Structured optimal brain surgery on the sums that repair uses; the default with images."""

WITHOUT_IMAGES = "l1"
"""Criterion that ranks channels without images."""

REPAIR_GIVES_BACK = 3.0
"""Factor by which curves may overestimate the loss of a cut that is repaired as a whole."""

MOST_HALVINGS = 4
"""Number of times that a budget is halved to find further candidates for it."""

DECIDING = ("scope", "threshold", "sensitivity")
"""Options that decide by themselves how far each group is cut."""

EVENLY, DISTILLED = "dropped evenly", "distilled"
"""Names of stages: of a cut that is only compared with, and of the last step."""

FALLBACK = "l2"
"""Criterion for groups that no contraction reads by itself."""


@dataclass(frozen=True, slots=True)
class Distilling:
    """Training of the small model towards the dense model's outputs.

    Attributes:
        effort: duration, in steps or seconds.
        augmentation: augmentation of the images; None leaves them unchanged.
    """

    effort: Effort
    augmentation: Augmentation | ImageChange | None = None

    @classmethod
    def parse(
        cls, given: int | str | None, augmentation: Augmentation | ImageChange | None = None
    ) -> Distilling | None:
        """Parse ``300`` (steps), ``"60s"`` or None.

        Raises:
            SecateursError: it is something else.
        """
        if given is None or given is False:
            return None
        return cls(Effort.parse(given), augmentation)


@takes_known_names
@dataclass(frozen=True, slots=True)
class Judging:
    """How a cut model is judged: keywords of ``prune``, ``repair`` and ``frontier``.

    Attributes:
        output: kind of the model's outputs: "categorical" (scores of classes: KL divergence),
            "bernoulli" (independent probabilities, or scores before a sigmoid), "embedding"
            (directions: cosine) or "relative" (anything: relative squared error); None infers it
            from their values.
        sources: source of each calibration image (a file, a recording), so that no source is both
            fitted and judged on; None takes every image as its own source.
        second_domain: images of another domain, on which the result is judged as well.
    """

    output: str | None = None
    sources: Sequence[Any] | NDArray[Any] | None = None
    second_domain: Any = None


@dataclass(frozen=True, slots=True)
class Request:
    """Options of a cut besides its budget; see ``secateurs.prune``.

    Attributes:
        criterion: what ranks channels inside each group; None is structured OBS on the same sums.
        loss: loss for criteria that need one.
        repair: whether to refit the kept weights; None does if there are images for it.
        distil: how long to distil; None does not.
        judging: how the result is judged.
        seed: seed of random splits and samples.
        proof: how the cut is proven, as for ``apply``.
        uniform: whether layers of a kind keep equal widths.
        blocks: whether residual blocks may be removed whole where that costs less than width.
        skip: groups or layers that stay whole; nothing is measured for them.
        peers: processes that share the work on the images, all of which hold them.
        copies: augmented copies of the images that weights are fitted to; None for none.
    """

    criterion: Any = None
    loss: Callable[[Any, Any], Any] | None = None
    repair: bool | None = None
    distil: Distilling | None = None
    judging: Judging = field(default_factory=Judging)
    seed: int = 0
    proof: bool | Literal["independent"] = True
    uniform: bool = False
    blocks: bool = False
    skip: Sequence[str] = ()
    peers: Peers = ALONE
    copies: AugmentedCopies | None = None


@dataclass(frozen=True, eq=False)
class Pruner:
    """Everything computed once for a model and its calibration images.

    Attributes:
        model: the user's model.
        network: its trace.
        dense: a working copy, with its outputs.
        curves: the order in which channels are removed, and the loss at each width.
        scores: ranks of the channels inside their groups.
        seed: seed of the random generator.
        proof: how cuts are proven, as for ``apply``.
        blocks: residual block that may be removed whole -> loss when only it is removed.
    """

    model: Any
    network: Network
    dense: DenseReference
    curves: Curves
    scores: Scores
    seed: int = 0
    proof: bool | Literal["independent"] = True
    blocks: Mapping[str, float] = field(default_factory=dict)
    _even: dict[Budget, Stage | None] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, network: Network, data: Any, request: Request) -> Pruner:
        """Collect sums, orders and error curves, in a pass or two over the images.

        Args:
            model: the user's model; it is not changed.
            network: its trace.
            data: calibration data, as for ``score``.
            request: other options.

        Raises:
            DataError: the images cannot be used.
        """
        images = read_images(network, data, "repair")
        dense = open_dense(model, network, images, request)
        curves, scores = _measure(dense, images, request)
        blocks = {}
        if request.blocks:
            blocks = measure_blocks(dense, repair=request.repair is not False)
        return cls(model, network, dense, curves, scores, request.seed, request.proof, blocks)

    def plan(self, budget: Budget, **planning: Any) -> Cut:
        """The cut within a budget with the least loss, by the curves."""
        planning = {"blocks": self.blocks, **planning}
        return plan_measured(
            self.network, self.curves.orders, self.curves.losses, budget, **planning
        )

    def foreseen(self, cut: Cut) -> float:
        """Loss that the curves predict for a cut: the sum over its groups and blocks."""
        gone = self.network.removed_by(cut)
        widths = {
            group.name: len(group) - int(np.isin(group.channels, gone).sum())
            for group in self.network.groups
        }
        narrower = sum(self.curves.losses[name][width] for name, width in widths.items())
        return float(narrower + sum(self.blocks[block.owner] for block in cut.blocks))

    def make_best(
        self,
        budget: Budget,
        *,
        repair: bool = True,
        distil: Distilling | None = None,
        even: Budget | None = None,
        **planning: Any,
    ) -> tuple[Any, Cut]:
        """(small model, its cut) within a budget, or within a half or less if that is nearer.

        A curve is measured with one group cut alone. Where several cut groups lose much more
        together than the sum of their curves, a smaller model that takes its channels elsewhere can
        lose less. It is made as well if the observed loss makes that likely, and preferred if it is
        surely nearer to the dense model on held-out images; then half of it is tried likewise.

        Args:
            budget: limits of the result.
            repair: as for ``make``.
            distil: as for ``make``.
            even: as for ``make``.
            **planning: as for ``plan``.
        """
        cut = self.plan(budget, **planning)
        small = self.make(cut, repair=repair, distil=distil, even=even)
        narrower = self._without_blocks(budget, planning) if cut.blocks else None
        if narrower is not None:  # losses of blocks may not add up: widths alone may be nearer
            other = self.make(narrower, repair=repair, distil=distil, even=even)
            if _fidelity_of(other).distance < _fidelity_of(small).distance:
                small, cut = other, narrower
        # Curves predict losses after a refit, so they say nothing about a cut without one.
        for smaller in self._smaller_cuts(budget, planning) if repair else ():
            if not self._may_be_nearer(smaller, small):
                break
            # Before it is distilled, which takes far longer and is rarely worth it.
            other = self.make(smaller, repair=repair, even=even)
            if not _fidelity_of(other).is_surely_below(_before_distillation(small)):
                break
            if distil is not None:
                other = self.make(smaller, repair=repair, distil=distil, even=even)
                if not _fidelity_of(other).is_surely_below(_fidelity_of(small)):
                    break
            small, cut = other, smaller
        return small, cut

    def _without_blocks(self, budget: Budget, planning: Mapping[str, Any]) -> Cut | None:
        """The cut within the same budget by widths alone; None if there is none."""
        try:
            return self.plan(budget, **{**planning, "blocks": None})
        except BudgetError:
            return None

    def _smaller_cuts(self, budget: Budget, planning: Mapping[str, Any]) -> Iterator[Cut]:
        """Yield cuts within half of each limit, a quarter, and so on, as long as they exist."""
        if any(name not in PRICED for name in budget.limits):
            return  # with limits of time, another plan would have to be timed
        limits = budget.absolute_for(self.network)
        for halvings in range(1, MOST_HALVINGS + 1):
            part = {name: limit / 2**halvings for name, limit in limits.items()}
            try:
                yield self.plan(Budget.from_absolute(part, budget), **planning)
            except BudgetError:
                return

    def _may_be_nearer(self, smaller: Cut, small: Any) -> bool:
        lost = _fidelity_of(small)
        surely_lost = lost.distance - lost.error
        return self.foreseen(smaller) < REPAIR_GIVES_BACK * surely_lost

    def make(
        self,
        cut: Cut,
        *,
        repair: bool = True,
        distil: Distilling | None = None,
        even: Budget | None = None,
    ) -> Any:
        """Make a cut, prove, repair and distil it.

        Args:
            cut: cut of the network.
            repair: whether to refit the kept weights.
            distil: how long to train towards the dense model's outputs; None does not.
            even: budget of the cut, to report what an even cut of every group would have kept;
                None omits that.

        Returns:
            The small model; ``report_of`` gives the proof, and the fidelity after each step.
        """
        return make_faithful(
            self.dense,
            backend_named(self.network.source.framework).apply(
                self.model,
                cut,
                _example(self.network),
                network=self.network,
                proof=self.proof,
            ),
            self.dense.alive_after(cut),
            repair=repair,
            distil=distil,
            seed=self.seed,
            before=self._evenly_dropped(even),
            seconds=self.curves.seconds,
            cut=cut,
        )

    def _evenly_dropped(self, budget: Budget | None) -> Stage | None:
        """Fidelity of a cut of the same share of every group, without repair, for comparison."""
        if budget is None:
            return None
        if budget not in self._even:
            self._even[budget] = self._judge_evenly(budget)
        return self._even[budget]

    def _judge_evenly(self, budget: Budget) -> Stage | None:
        network = self.dense.work_network
        try:
            cut = plan(network, self.scores, budget)
        except BudgetError:
            return None
        trial = GroupTrial("", 0, network.removed_by(cut), (), dict)
        judging = self.dense.calibration.judge
        found = self.dense.framework.judge_trials(network, judging, [trial], self.dense.kind)
        return Stage(EVENLY, found[0])


def _fidelity_of(model: Any) -> Fidelity:
    known = report_of(model).fidelity
    assert known is not None  # noqa: S101 - make_faithful keeps one
    return known.fidelity


def _before_distillation(model: Any) -> Fidelity:
    """Fidelity of the weights that distillation began with."""
    known = report_of(model).fidelity
    assert known is not None  # noqa: S101 - make_faithful keeps one
    made = [stage for stage in known.stages if stage.name not in (EVENLY, DISTILLED)]
    return most_faithful(made).fidelity


def make_faithful(
    dense: DenseReference,
    small: Any,
    alive: NDArray[np.bool_],
    *,
    repair: bool = True,
    distil: Distilling | None = None,
    seed: int = 0,
    before: Stage | None = None,
    seconds: float = 0.0,
    cut: Cut | None = None,
) -> Any:
    """Repair and distil a cut model, and store the fidelity after each step in its report.

    Args:
        dense: the dense model, and calibration images.
        small: the cut model; it is not changed.
        alive: mask of the dense network's atoms that it keeps, shape (atoms,).
        repair: whether to refit the weights.
        distil: how long to distil; None does not.
        seed: seed of the random generator.
        before: stage to list before all others in the report.
        seconds: time that the shared preparation took.
        cut: cut that made the small model, if it removed whole blocks.
    """
    made = repair_cut(dense, small, alive, least_squares=repair, cut=cut)
    stages = (*([before] if before else []), *made.report.stages)
    report = replace(made.report, stages=stages, seconds=seconds)
    model = made.model
    if distil is not None:
        report = _distil(dense, model, report, distil, seed)
    keep_fidelity_(model, report)
    return model


def _distil(
    dense: DenseReference, model: Any, report: FidelityReport, distil: Distilling, seed: int
) -> FidelityReport:
    """Train towards the dense model's outputs; the weights are kept if they are more faithful."""
    start = time.perf_counter()
    backend = backend_named(dense.network.source.framework)
    twin, _ = dense.copy(model)
    calibration = dense.calibration
    images = in_batches(
        join_batches([_strip_labels(calibration.fit), _strip_labels(calibration.choose)])
    )
    trained = backend.distil(
        twin,
        dense.work,
        images,
        steps=distil.effort.steps,
        seconds=distil.effort.seconds,
        held_out=dense.judge,
        seed=seed,
        outputs=dense.kind,
        augmentation=distil.augmentation,
    )
    stage = Stage(DISTILLED, dense.fidelity(trained.trained), time.perf_counter() - start)
    after = report.with_stage(stage, keeps=trained.kept)
    if trained.kept:
        dense.framework.copy_weights_(trained.model, model)
        after = replace(after, second_domain=dense.elsewhere(model))
    return after


def _strip_labels(batch: CalibrationBatch) -> CalibrationBatch:
    return CalibrationBatch(batch.images, None)


def read_images(network: Network, data: Any, caller: str) -> list[CalibrationBatch]:
    """Checked calibration batches for a network's working copy; batches read before stay.

    Args:
        network: network of the dense model.
        data: data as for ``prune``, or what this returned.
        caller: name of what needs the data, for messages.

    Raises:
        DataError: the data cannot be used.
    """
    if isinstance(data, list) and data and all(isinstance(b, CalibrationBatch) for b in data):
        return data
    return repairing(network.source.framework).read_images(network, data, caller)


def open_dense(
    model: Any, network: Network, images: Sequence[CalibrationBatch], request: Request
) -> DenseReference:
    """Prepare the dense model with its outputs on calibration images.

    Args:
        model: the user's model.
        network: its trace.
        images: checked batches.
        request: kind of outputs, sources, images of a second domain, augmented copies.
    """
    calibration = Calibration.of_batches(images, sources=request.judging.sources, seed=request.seed)
    second: list[CalibrationBatch] = []
    if request.judging.second_domain is not None:
        second = read_images(network, request.judging.second_domain, "second_domain")
    output, peers = request.judging.output, request.peers
    more = request.copies, request.seed
    return DenseReference(model, network, calibration, output, second, peers, *more)


def _example(network: Network) -> Any:
    source: Any = network.source
    return source.example_inputs


def _scores_from(orders: Mapping[str, NDArray[np.int64]], network: Network) -> Scores:
    """Scores from orders: each channel's place as a share, the lowest removed first."""
    values = {}
    for name, order in orders.items():
        places = np.empty(len(order))
        places[order] = np.arange(len(order)) / max(1, len(order) - 1)
        values[name] = places
    return Scores(values, OBS, layers=network.groups_by_layer)


@dataclass(frozen=True, eq=False, slots=True)
class Workshop:
    """Functions that plan and make cuts of one model, depending on the data available.

    Attributes:
        plan: function from a budget (None if planning options set the amount) to a cut.
        make: function from a cut to the small model: proven, and repaired and distilled if
            requested.
        scores: ranks of the channels inside their groups.
        best: function from a budget to (small model, its cut). Where curves were measured, smaller
            budgets' cuts are candidates too.
        blocks: residual block that may be removed whole -> loss when only it is removed.
    """

    plan: Callable[[Budget | None], Cut]
    make: Callable[[Cut], Any]
    scores: Scores
    best: Callable[[Budget | None], tuple[Any, Cut]]
    blocks: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def in_turn(
        cls, plan: Callable[[Budget | None], Cut], make: Callable[[Cut], Any], scores: Scores
    ) -> Workshop:
        """A workshop whose ``best`` makes the planned cut, without other candidates."""

        def best(budget: Budget | None) -> tuple[Any, Cut]:
            cut = plan(budget)
            return make(cut), cut

        return cls(plan, make, scores, best)


def open_workshop(
    model: Any,
    network: Network,
    calibration: Any,
    budget: Budget | None,
    request: Request,
    planning: Mapping[str, Any],
) -> Workshop:
    """Score or measure once; then plan and make any cut: see ``secateurs.prune``.

    Args:
        model: the dense model; it is not changed.
        network: its trace.
        calibration: calibration data, or None.
        budget: budget of units that can be predicted; None where ``planning`` sets the amount.
            ``criterion="auto"`` is decided with it.
        request: other options.
        planning: options for ``plan``.
    """
    images = images_for_repair(network, calibration, request)
    _check_joint(network, images, request, planning)
    if images is not None and _is_measured(request, planning):
        return _workshop_by_measuring(model, network, images, budget, request, planning)
    data = calibration if images is None else _pairs(images)
    even = _uniform_planner(network, request, planning)
    options = planning if even is None else even.planning(planning)
    amount = planning.get("amount")

    def plan_cut(scores: Scores, asked: Budget | None = budget) -> Cut:
        cut = plan(network, scores, asked, **options)
        if even is None:
            return cut
        by_share = asked is None and amount is not None
        return even.make(scores, cut, _budget_of(network, None, amount) if by_share else asked)

    criterion = WITHOUT_IMAGES if request.criterion in (None, OBS) else request.criterion
    scores = score_for(
        network, criterion, plan_cut, data=data, loss=request.loss, seed=request.seed
    )
    apply_cut = partial(_apply_cut, model, network, request)
    if images is None:
        make = partial(_repair_without_images, model, network, request)
        chosen = make if request.repair else apply_cut
        return Workshop.in_turn(lambda asked: plan_cut(scores, asked), chosen, scores)
    dense = open_dense(model, network, images, request)

    def apply_and_repair(cut: Cut) -> Any:
        return make_faithful(
            dense,
            apply_cut(cut),
            dense.alive_after(cut),
            repair=request.repair is not False,
            distil=request.distil,
            seed=request.seed,
        )

    return Workshop.in_turn(lambda asked: plan_cut(scores, asked), apply_and_repair, scores)


def _check_joint(
    network: Network,
    images: Sequence[CalibrationBatch] | None,
    request: Request,
    planning: Mapping[str, Any],
) -> None:
    """Check that blocks can be weighed against widths.

    Raises:
        DataError: there are no images to measure on.
        BudgetError: another option decides the widths, or there are no blocks.
    """
    if not request.blocks:
        return
    if images is None:
        raise DataError(
            f"depth=True: {_WITHOUT_IMAGES} Or give the number of blocks to remove: depth=0.25."
        )
    others = [name for name in DECIDING if planning.get(name) is not None]
    others += ["uniform"] * request.uniform + ["loss"] * (request.loss is not None)
    others += ['criterion="auto"'] * (request.criterion == AUTO)
    if others:
        raise BudgetError(
            "depth=True: expected blocks and widths to be chosen by their measured losses; "
            f"received {', '.join(others)} as well. Leave that out, or give the number of blocks "
            "to remove: depth=0.25."
        )
    if not network.blocks:
        raise no_blocks(network)


def no_blocks(network: Network) -> BudgetError:
    """The error for a network without residual blocks."""
    return BudgetError(
        f"{network.name}: depth: expected residual blocks, modules that return their input plus "
        "something; found none. Cut channels instead: amount=0.5, or a budget."
    )


def _workshop_by_measuring(
    model: Any,
    network: Network,
    images: Sequence[CalibrationBatch],
    budget: Budget | None,
    request: Request,
    planning: Mapping[str, Any],
) -> Workshop:
    request = replace(request, skip=planning.get("skip", ()))
    pruner = Pruner.of(model, network, images, request)
    rest = {name: value for name, value in planning.items() if name not in DECIDING}
    amount = rest.pop("amount", None)
    even = _budget_of(network, budget, amount)
    evenly = _uniform_planner(network, request, rest)
    options = rest if evenly is None else evenly.planning(rest)

    def plan_cut(asked: Budget | None) -> Cut:
        wanted = _budget_of(network, asked, amount)
        cut = pruner.plan(wanted, **options)
        return cut if evenly is None else evenly.make(pruner.scores, cut, wanted)

    making: dict[str, Any] = {
        "repair": request.repair is not False,
        "distil": request.distil,
        "even": even,
    }

    def best(asked: Budget | None) -> tuple[Any, Cut]:
        return pruner.make_best(_budget_of(network, asked, amount), **making, **rest)

    make = partial(pruner.make, **making)
    if evenly is not None:
        return Workshop.in_turn(plan_cut, make, pruner.scores)
    return Workshop(plan_cut, make, pruner.scores, best, pruner.blocks)


def _uniform_planner(
    network: Network, request: Request, planning: Mapping[str, Any]
) -> Evenly | None:
    """The object that makes plans uniform, if that is requested."""
    if not request.uniform:
        return None
    floor = planning.get("floor")
    return Evenly(network, planning.get("skip", ()), 0.1 if floor is None else floor)


def _apply_cut(model: Any, network: Network, request: Request, cut: Cut) -> Any:
    backend = backend_named(network.source.framework)
    return backend.apply(model, cut, _example(network), network=network, proof=request.proof)


def images_for_repair(
    network: Network, calibration: Any, request: Request
) -> list[CalibrationBatch] | None:
    """Check calibration images for repair; None where scores alone decide.

    Warns:
        UserWarning: there are too few to fit anything to.
    """
    asked = request.repair or request.distil is not None or request.copies is not None
    if calibration is None:
        for name in ("distil", "copies"):
            if getattr(request, name) is not None:
                raise DataError(f"{name}: {_WITHOUT_IMAGES}")
        if request.repair:
            repairing(network.source.framework)
        return None
    if not asked and not can_repair(network.source.framework):
        return None
    repairing(network.source.framework)
    images = read_images(network, calibration, "prune")
    # Images that were given for a criterion may be too few to fit weights to.
    needed = LEAST_IMAGES if request.criterion is None else FEW_IMAGES
    count = sum(map(len, images))
    if asked or count >= needed:
        return images
    if request.criterion is None:
        warnings.warn(
            f"prune: expected at least {LEAST_IMAGES} calibration images; received {count}: "
            "widths are chosen as without images, and weights are not repaired. Labels are not "
            "needed; 512 images are plenty.",
            UserWarning,
            stacklevel=3,
        )
    return None


_WITHOUT_IMAGES = (
    "expected calibration images; received none. Pass calibration=images, an array of a few "
    "hundred inputs like those the model will see; labels are not needed."
)
_NOT_JUDGED = (
    "The result was not evaluated: pass calibration=images, a few hundred unlabelled inputs like "
    "those the model will see, to fit all layers to their activations and to evaluate the result."
)
NOISE_IMAGES = 256


def _repair_without_images(model: Any, network: Network, request: Request, cut: Cut) -> Any:
    """The small model, repaired by what the dense one's weights say about its activations.

    Where layers read the outputs of batch normalisation, its moments and the similarity of filters
    are used; otherwise weights are fitted on noise.

    Warns:
        UserWarning: which of the two was done, and what images would give.
    """
    small = _apply_cut(model, network, request, cut)
    changed = repairing(network.source.framework).repair_without_images_(network, small, cut)
    if changed:
        warnings.warn(
            f"repair: without calibration images, {len(changed)} layers were corrected with the "
            "running statistics of batch normalisation and the similarity of filters: kept "
            f"channels replace removed ones. {_NOT_JUDGED}",
            UserWarning,
            stacklevel=2,
        )
        return small
    noise = _noise_like(_example(network), request.seed)
    warnings.warn(
        "repair: without calibration images, and without batch normalisation to estimate "
        f"activations from, weights are fitted on {NOISE_IMAGES} images of noise, and evaluated "
        f"on noise too. {_NOT_JUDGED}",
        UserWarning,
        stacklevel=2,
    )
    dense = open_dense(model, network, [CalibrationBatch(noise, None)], request)
    return make_faithful(dense, small, dense.alive_after(cut), repair=True, seed=request.seed)


def _noise_like(example: Any, seed: int) -> NDArray[np.float32]:
    """Images of normal noise with the example's shape.

    Raises:
        DataError: the example is not an array of floats.
    """
    array = np.asarray(example) if hasattr(example, "shape") else np.zeros(0, np.int64)
    if array.dtype.kind != "f":
        raise DataError(f"repair: {_WITHOUT_IMAGES} Noise cannot stand in for such inputs.")
    random = np.random.default_rng(seed)
    return random.standard_normal((NOISE_IMAGES, *array.shape[1:])).astype(np.float32)


def _is_measured(request: Request, planning: Mapping[str, Any]) -> bool:
    """Whether error curves decide how far each group is cut, as no other option does."""
    return request.criterion != AUTO and all(planning.get(name) is None for name in DECIDING)


def _budget_of(network: Network, budget: Budget | None, amount: float | None) -> Budget:
    """The budget, or the share of channels to remove converted to one."""
    if (budget is None) == (amount is None):
        raise BudgetError("expected exactly one of budget, amount and threshold")
    if budget is not None:
        return budget
    if amount is None or not 0 < amount < 1:
        raise BudgetError(f"amount: expected a share in (0, 1); received {amount}")
    total = network.cost().channels
    return Budget(channels=max(1, total - round(amount * total)) + 0.0)


def _pairs(images: Sequence[CalibrationBatch]) -> list[Any]:
    """Batches in the form that ``score`` takes."""
    return [
        batch.images if batch.labels is None else (batch.images, batch.labels) for batch in images
    ]


def repair_model(small: Any, dense: Any, images: Any, example_inputs: Any, request: Request) -> Any:
    """Repair a copy of a cut model: see ``secateurs.repair``."""
    small, dense = unwrap(small), unwrap(dense)
    backend = backend_of(dense)
    if example_inputs is None:
        found = repairing(framework_of(dense)).first_example(dense, images)
        example_inputs, images = example_from(images) if found is None else found
        example_inputs = two_texts(example_inputs)
    network = backend.trace(dense, example_inputs)
    framework = repairing(network.source.framework)
    cut = _cut_between(dense, small)
    if cut.blocks:
        removed = _find_removed_beside_blocks(network, cut)
    else:
        removed = np.flatnonzero(~match_channels(network, framework.arrays(small), cut))
    opened = open_dense(dense, network, read_images(network, images, "repair"), request)
    alive = opened.alive_without(removed)
    return make_faithful(
        opened, small, alive, repair=True, distil=request.distil, seed=request.seed, cut=cut
    )


def _cut_between(dense: Any, small: Any) -> Cut:
    """What went from a model that may have been cut before: the small one's cut has both."""
    whole, earlier = report_of(small).cut, report_of(dense).cut
    if not earlier:
        return whole
    try:
        return whole.since(earlier)
    except CutError:  # of another model, whose channels are looked for
        return Cut()


def _find_removed_beside_blocks(network: Network, cut: Cut) -> NDArray[np.int64]:
    """Atoms removed beside whole blocks, if they are channels of this network.

    Raises:
        CutError: the channels were removed in a later cut.
    """
    try:
        return network.removed_by(cut)
    except UnknownNameError as error:
        raise CutError(
            "repair: expected a model whose blocks and channels were removed in one cut; here "
            f"channels were removed later ({error}). Pass the model without the blocks as the "
            "dense one."
        ) from error


def curves_of(network: Network, images: Any, request: Request) -> tuple[Curves, Scores]:
    """Error curves of a network, and ranks of its channels: see ``Pruner.of``.

    Args:
        network: network to measure; its model is not changed.
        images: training or calibration batches.
        request: criterion, loss, and seed of random splits and samples.
    """
    source: Any = network.source
    checked = read_images(network, images, "curves")
    return _measure(open_dense(source.model, network, checked, request), checked, request)


def _measure(
    dense: DenseReference, images: Sequence[CalibrationBatch], request: Request
) -> tuple[Curves, Scores]:
    """Error curves, and ranks of the channels inside their groups."""

    def fallback() -> Scores:
        return scoring.score(dense.work_network, FALLBACK, seed=request.seed)

    if request.criterion in (None, OBS):
        curves = measure_curves(
            dense, scores=fallback, loss=request.loss, seed=request.seed, skip=request.skip
        )
        return curves, _scores_from(curves.orders, dense.network)
    scores = scoring.score(
        dense.work_network if dense.last_layers else dense.network,
        request.criterion,
        data=share(_pairs(images), request.peers),
        loss=request.loss,
        seed=request.seed,
    )
    orders = {name: np.argsort(scores[name], kind="stable") for name in scores}
    curves = measure_curves(
        dense,
        scores=fallback,
        orders=orders,
        loss=request.loss,
        seed=request.seed,
        skip=request.skip,
    )
    return curves, scores


def repair_after_(
    network: Network, small: Any, cut: Cut, images: Any, seed: int, *, peers: Peers = ALONE
) -> FidelityReport:
    """Refit a cut model's weights in place, towards the model before the cut.

    Args:
        network: network that the cut was planned on; its model is unchanged.
        small: the cut model; its weights change if that makes it more faithful.
        cut: cut of the network.
        images: training or calibration batches; labels are ignored.
        seed: seed of the random split.
        peers: processes that share the work on them.

    Returns:
        The fidelity after each step.
    """
    source: Any = network.source
    checked = read_images(network, images, "repair")
    opened = open_dense(source.model, network, checked, Request(seed=seed, peers=peers))
    made = make_faithful(opened, small, opened.alive_after(cut), seed=seed)
    opened.framework.copy_weights_(made, small)
    report = report_of(made).fidelity
    assert report is not None  # noqa: S101 - make_faithful keeps one
    return report
