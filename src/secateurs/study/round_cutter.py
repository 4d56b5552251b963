"""The cut of one round: processes share scores and repair, and the main one decides the cut."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from secateurs.backends import Loss
from secateurs.calibration.peers import ALONE, Peers
from secateurs.calibration.shared_data import share
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network, Role
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import AUTO
from secateurs.criteria.scoring import Scores
from secateurs.planning.auto_criterion import score_for
from secateurs.reconstruction.pruner import Request, curves_of, repair_after_
from secateurs.settings.pruning import Pruning
from secateurs.settings.study import Configuration
from secateurs.study.defaults import read_for_repair
from secateurs.study.goals import Goals
from secateurs.study.position import StudyStage
from secateurs.study.rounds import plan_round, plan_round_by_curves
from secateurs.study.session import Session
from secateurs.study.training_schedule import TrainingSchedule


class RoundCutter:
    """Plans and makes the cuts of a study."""

    def __init__(
        self,
        session: Session,
        configuration: Configuration,
        schedule: TrainingSchedule,
        criterion: str | Callable[[GroupData], Any] | None,
        loss: Loss | None,
    ) -> None:
        self._session = session
        self._seed = configuration.training.seed
        self._pruning = configuration.pruning
        self._schedule = schedule
        self._criterion = criterion
        self._loss = loss

    def plan(self, network: Network, goals: Goals) -> Cut:
        """Plan the round's cut, the same in all processes; empty if nothing more can be removed.

        Args:
            network: network of the present model.
            goals: goals at which cutting ends.
        """
        learner = self._session.learner
        if (self._criterion or self._pruning.ranked_by) == AUTO:
            # A tournament judges cuts with moments that are estimated on all images.
            return Cut.from_json(learner.agree(lambda: self._plan(network, goals, ALONE).to_json()))
        planned = self._plan(network, goals, learner.peers).to_json()
        return Cut.from_json(learner.agree(lambda: planned))

    def _plan(self, network: Network, goals: Goals, peers: Peers) -> Cut:
        session, pruning = self._session, self._pruning
        so_far = session.learner.cut
        seed = self._seed + session.position.round
        if pruning.allocation == "curves":
            images = read_for_repair(pruning, session.learner)
            # By the distance of outputs, not by the loss, which may not be defined per image.
            loss = None if self._criterion is None else self._loss
            request = Request(self._criterion, loss, seed=seed, peers=peers)
            curves, _ = curves_of(network, images, request)
            return plan_round_by_curves(
                network, curves.orders, curves.losses, pruning, so_far, goals
            )

        def planner(scores: Scores) -> Cut:
            return plan_round(network, scores, pruning, so_far, goals)

        scores = score_for(
            network,
            self._criterion or pruning.ranked_by,
            planner,
            data=share(session.learner.calibration(pruning.calibration_batches), peers),
            loss=self._loss,
            seed=seed,
        )
        if scores.tournament is not None:
            session.record(
                "tournament", round=session.position.round + 1, **scores.tournament.to_plain()
            )
        return planner(scores)

    def cut(self, network: Network, cut: Cut) -> None:
        """Make and record the cut, and rewind if configured; the round's training comes next."""
        session = self._session
        number = session.position.round + 1
        report = session.learner.apply(cut, network)
        learner, pruning = session.learner, self._pruning
        if repairs(pruning):
            images = read_for_repair(pruning, learner)
            repair_after_(network, learner.model, cut, images, self._seed, peers=learner.peers)
        proof = report.proof
        evaluation = session.evaluate("validation")
        session.record(
            "prune",
            round=number,
            batch=session.position.batch,
            removed=cut.removed_channels,
            **asdict(network.cost(cut)),
            widths=widths(network, cut),
            **session.metric.field(evaluation.accuracy),
            max_difference=report.max_difference,
            tolerance=None if proof is None else proof.tolerance,
            inexact=[] if proof is None else list(proof.inexact),
        )
        session.store.keep_cut(number, cut)
        if self._schedule.rewinds_weights:
            self._rewind()
        session.best = None
        session.move(
            stage=StudyStage.FINE_TUNE,
            round=number,
            done=0,
            best=-sys.float_info.max,
            best_loss=sys.float_info.max,
            best_batch=session.position.batch,
            best_is_average=False,
            proof=None if proof is None else asdict(proof),
        )
        session.checkpoint()

    def _rewind(self) -> None:
        """Restore the kept weights, and their optimizer state, of the batch to rewind to."""
        learner = self._session.learner
        so_far = learner.cut
        learner.restore(self._session.fetch("rewind"))
        learner.apply(so_far.since(learner.cut))


def repairs(pruning: Pruning) -> bool:
    """Whether cuts are repaired: not if rewinding replaces the weights anyway."""
    return bool(pruning.repair) and not pruning.rewinds_weights


def widths(network: Network, cut: Cut | None = None) -> dict[str, int]:
    """Layer -> its number of filters, after ``cut``."""
    cuts = {} if cut is None else cut.tensors
    found: dict[str, int] = {}
    for tensor in network.tensors.values():
        shape = cuts[tensor.name].shape_after if tensor.name in cuts else tensor.shape
        for axis, role in tensor.roles.items():
            if role is Role.FILTER:
                found.setdefault(tensor.layer, shape[axis])
    return found
