"""Rank, prune, retrain, repeat: the loop of a study, independent of the framework.

The loop goes through stages: the dense model is trained, then cut, fine-tuned, and cut again, until
a stopping condition holds. Its state is a ``Position``: plain data, which the store saves after
every evaluation together with the model's values. A loop that resumes from such a position makes
the same decisions as an uninterrupted one, since there is no other state.

Source: Han et al., Learning both Weights and Connections, NeurIPS 2015; Travis Johnston, "Pruning
ResNets for Fun and Profit".
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from secateurs.backends import Loss, repairing
from secateurs.channels.network import Network
from secateurs.criteria.group_data import GroupData
from secateurs.errors import DataError
from secateurs.settings.study import Configuration
from secateurs.study.checkpoints import CheckpointName, CheckpointStore
from secateurs.study.goals import Goals
from secateurs.study.position import Position, StudyStage
from secateurs.study.round_cutter import RoundCutter, repairs, widths
from secateurs.study.session import Session
from secateurs.study.stage_trainer import DivergedError, StageTrainer
from secateurs.study.training_schedule import TrainingSchedule
from secateurs.training.callbacks import Watcher
from secateurs.training.learner import Learner

_ROUNDING = 1e-9


class Loop:
    """The loop of one study: decides which stage comes next, and which model is the result."""

    def __init__(
        self,
        learner: Learner,
        store: CheckpointStore,
        configuration: Configuration,
        criterion: str | Callable[[GroupData], Any] | None,
        watcher: Watcher,
        loss: Loss | None = None,
    ) -> None:
        self._configuration = configuration
        self._session = Session(learner, store, watcher)
        self._schedule = TrainingSchedule(
            configuration.training, configuration.pruning, learner.batches_an_epoch
        )
        self._trainer = StageTrainer(self._session, self._schedule)
        self._cutter = RoundCutter(self._session, configuration, self._schedule, criterion, loss)
        self._goals = Goals()

    def run(self) -> Position:
        """Carry out the study, or the rest of it.

        Returns:
            The final position. The learner then holds the result: the smallest model within the
            tolerance, or the dense one.

        Raises:
            SecateursError: a requested setting cannot be met; raised before any training where
                possible.
        """
        session = self._session
        self._begin_or_go_on()
        session.seconds_since_last()
        while session.position.stage is not StudyStage.ENDED:
            if session.position.stage is StudyStage.DENSE:
                self._train_dense()
            elif session.position.stage is StudyStage.FINE_TUNE:
                self._fine_tune()
            else:
                self._cut_or_stop()
        session.learner.restore(session.fetch_result())
        return session.position

    def _begin_or_go_on(self) -> None:
        session, configuration = self._session, self._configuration
        network = session.learner.trace()
        if repairs(configuration.pruning):
            repairing(network.source.framework)  # raises now if repair is not supported
        self._goals = Goals.of(network, configuration.stop.budget)
        if session.resume():
            self._extend_if_asked()
            return
        session.record(
            "dense",
            round=0,
            batch=0,
            model=configuration.task.model,
            data=configuration.task.data,
            criterion=configuration.pruning.ranked_by,
            seed=configuration.training.seed,
            **session.metric.record_fields,
            **asdict(network.cost()),
            widths=widths(network),
        )

    def _extend_if_asked(self) -> None:
        """Reopen a study that has ended, if its stopping settings have changed."""
        session, stop = self._session, self._configuration.stop.model_dump(mode="json")
        if session.position.ended_by in (None, stop):
            return
        position = session.position
        session.record("extended", round=position.round, batch=position.batch, stop=stop)
        session.move(stage=StudyStage.CUT, ended_by=None)
        if position.round:
            # With another tolerance the latest round may have recovered, and earlier ones too. Of
            # those, only the number of consecutive misses still matters.
            session.move(misses=self._count_misses() - 1)
            self._judge_round()

    def _count_misses(self) -> int:
        """Number of consecutive latest rounds that did not come within the tolerance."""
        session, goal = self._session, self._goal
        best: dict[int, float] = {}
        for record in session.store.history.of("train"):
            score = session.metric.score(record[session.metric.key])
            best[record["round"]] = max(score, best.get(record["round"], score))
        latest = range(session.position.round, 0, -1)
        missed = (number in best and goal is not None and best[number] < goal for number in latest)
        return sum(1 for _ in itertools.takewhile(bool, missed))

    def _train_dense(self) -> None:
        session = self._session
        rates = self._schedule.dense_rates
        if len(rates):
            self._trainer.train("dense model", rates)
        else:
            self._trainer.evaluate()
        session.restore_best()
        best = session.position.best
        if best <= -sys.float_info.max:
            raise DataError(
                f"validation: expected a {session.metric.name} of the dense model that is a "
                "finite number; received none. Check what metric= or evaluate= returns for it."
            )
        session.move(stage=StudyStage.CUT, dense_accuracy=best, result_accuracy=best)
        session.keep("dense")
        session.checkpoint()

    def _fine_tune(self) -> None:
        session = self._session
        if not self._is_recovered_by_repair():
            self._train_round()
        session.restore_best()
        self._judge_round()
        if self._configuration.pruning.measure_speed and session.best is not None:
            self._measure_speed()
        session.checkpoint()

    def _is_recovered_by_repair(self) -> bool:
        """Whether repair alone brought the round within the tolerance, so it needs no training."""
        session, pruning = self._session, self._configuration.pruning
        if not repairs(pruning) or pruning.rewind or self._goal is None or session.position.done:
            return False
        try:
            accuracy = self._trainer.evaluate()
        except DivergedError:
            return False  # training may still mend it, or will report the failure
        if accuracy < self._goal:
            return False
        session.record(
            "recovered",
            round=session.position.round,
            batch=session.position.batch,
            accuracy=accuracy,
            by="repair",
        )
        return True

    def _train_round(self) -> None:
        """Fine-tune after a cut; if training diverges, the study ends with earlier rounds."""
        session = self._session
        goal = self._goal if self._configuration.pruning.until_recovered else None
        if self._configuration.training.distillation:
            session.learner.follow(session.fetch("dense"))
        try:
            stage = f"round {session.position.round}"
            self._trainer.train(stage, self._schedule.round_rates, goal)
        except DivergedError as error:
            # Earlier rounds succeeded: they are kept, and the study ends with them.
            session.move(ending=f"round {session.position.round}: {error}".rstrip("."))
            # The present model is the one that diverged.
            session.learner.restore(session.best or session.fetch_result())

    def _judge_round(self) -> None:
        """Decide whether the round recovered, and update the study's result."""
        position = self._session.position
        recovered = position.best > -sys.float_info.max and (
            self._goal is None or position.best >= self._goal
        )
        if recovered:
            position = replace(
                position,
                misses=0,
                result_round=position.round,
                result_accuracy=position.best,
                result_proof=position.proof,
            )
        else:
            position = replace(position, misses=position.misses + 1)
        self._session.position = replace(position, stage=StudyStage.CUT)

    @property
    def _goal(self) -> float | None:
        """The least score that counts as recovered; None if every one does."""
        dense = self._session.position.dense_accuracy
        tolerance = self._configuration.stop.tolerance
        return None if tolerance is None or dense is None else dense - tolerance - _ROUNDING

    def _cut_or_stop(self) -> None:
        session = self._session
        # Written again after a crash at this point; the checkpoint is authoritative.
        position = session.position
        if position.result_round and position.result_round == position.round:
            session.keep("best")
        reason = position.ending
        if reason is None:
            network = session.learner.trace()
            reason = self._why_stop(network)
        if reason is None:
            cut = self._cutter.plan(network, self._goals)
            if cut:
                self._cutter.cut(network, cut)
                return
            floors = "no more channels can be removed: every group is at its floor"
            reason = f"{floors}{self._describe_missed(session.learner.trace())}"
        self._end(reason)

    def _why_stop(self, network: Network) -> str | None:
        position, stop = self._session.position, self._configuration.stop
        if position.misses >= stop.patience and self._goal is not None:
            metric = self._session.metric
            found, needed = (metric.text(metric.value(x)) for x in (position.best, self._goal))
            return (
                f"round {position.round} did not recover: {found} validation {metric.name}, "
                f"{needed} needed{self._describe_missed(network)}"
            )
        if self._are_met(network):
            limits = stop.budget.limits if stop.budget else {}
            return f"the budget is met: {', '.join(f'{k}={v}' for k, v in limits.items())}"
        if stop.rounds is not None and position.round >= stop.rounds:
            return (
                f"the maximum of {position.round} rounds is reached{self._describe_missed(network)}"
            )
        return None

    def _describe_missed(self, network: Network) -> str:
        missed = self._goals.describe_missed(network)
        return f"; the budget is not met: {missed}" if missed else ""

    def _are_met(self, network: Network) -> bool:
        """Whether the budget is met; measurements are made by the main process."""
        learner, goals = self._session.learner, self._goals
        if not goals:
            return False
        return learner.agree(lambda: "yes" if goals.are_met(network) else "") == "yes"

    def _measure_speed(self) -> None:
        session = self._session
        dense = session.fetch("dense")
        if session.learner.is_main:
            measured = session.learner.speed(dense)
            session.record("speed", round=session.position.round, **asdict(measured))

    def _end(self, reason: str) -> None:
        session, metric = self._session, self._session.metric
        latest = session.present()  # the study could be extended from it
        # The test data are used here and nowhere else.
        dense_test_accuracy = test_accuracy = self._test("dense")
        if session.position.result_round:
            test_accuracy = self._test("best")
        session.record(
            "stop",
            round=session.position.round,
            batch=session.position.batch,
            reason=reason,
            best_round=session.position.result_round,
            **metric.field(session.position.result_accuracy),
            **metric.field(session.position.dense_accuracy, "dense_"),
            **metric.field(test_accuracy, "test_"),
            **metric.field(dense_test_accuracy, "dense_test_"),
        )
        ended_by = self._configuration.stop.model_dump(mode="json")
        session.move(stage=StudyStage.ENDED, ended_by=ended_by)
        session.best = None
        session.checkpoint(latest)

    def _test(self, name: CheckpointName) -> float | None:
        session = self._session
        if not session.learner.has_test:
            return None
        session.learner.restore(session.fetch(name))
        return session.evaluate("test").accuracy
