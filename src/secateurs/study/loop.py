"""Rank, prune, retrain, repeat: the loop of a study, for whichever framework the learner is of.

The loop walks through stages: the dense model is trained, then cut, fine-tuned, cut again, until
it is time to stop. Where it is, is its ``Position``: plain data, which a journal keeps after every
evaluation together with the model's values. A loop that is given such a position goes on from it
and decides as it would have decided, since nothing else is remembered.

Source: Han et al., Learning both Weights and Connections, NeurIPS 2015; Travis Johnston, "Pruning
ResNets for Fun and Profit".
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network, Role
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import check_known
from secateurs.criteria.scoring import Scores
from secateurs.errors import SecateursError
from secateurs.formatting import percent
from secateurs.planning.auto_criterion import score_for
from secateurs.planning.planner import plan
from secateurs.settings.configuration import Configuration, Training
from secateurs.study.checkpoints import CheckpointStore, Name, Position, Stage
from secateurs.study.rounds import fits, limits_of, plan_round
from secateurs.training.callbacks import Watcher
from secateurs.training.learner import Evaluation, Learner, Part, Snapshot
from secateurs.training.schedules import learning_rates

_ROUNDING = 1e-9


class Loop:
    """The loop of one study."""

    def __init__(
        self,
        learner: Learner,
        journal: CheckpointStore,
        configuration: Configuration,
        criterion: str | Callable[[GroupData], Any],
        watcher: Watcher,
        loss: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._learner = learner
        self._journal = journal
        self._training = configuration.training
        self._pruning = configuration.pruning
        self._stop = configuration.stop
        self._task = configuration.task
        self._criterion = criterion
        self._loss = loss
        self._watcher = watcher
        self._position = Position()
        self._best: Snapshot | None = None
        self._limits: Mapping[str, float] = {}
        self._last_record = 0.0

    def run(self) -> Position:
        """Carry the study out, or what is left of it.

        Returns:
            The position at its end. The learner holds the result: the smallest model within the
            tolerance, or the dense one.

        Raises:
            SecateursError: what was asked for cannot be done; found before anything is trained
                where it can be.
        """
        self._begin_or_go_on()
        self._last_record = time.monotonic()
        while self._position.stage is not Stage.ENDED:
            if self._position.stage is Stage.DENSE:
                self._train_dense()
            elif self._position.stage is Stage.FINE_TUNE:
                self._fine_tune()
            else:
                self._cut_or_stop()
        self._learner.restore(self._fetch_result())
        return self._position

    # -- the beginning

    def _begin_or_go_on(self) -> None:
        resumed = self._journal.resume()
        network = self._learner.trace()
        self._limits = limits_of(network, self._stop.budget)
        if resumed is not None:
            self._position, present, self._best = resumed
            self._learner.restore(present)
            for record in self._journal.history:
                self._watcher.recorded(record)
            return
        cost = network.cost()
        self._record(
            "dense",
            round=0,
            batch=0,
            model=self._task.model,
            data=self._task.data,
            criterion=self._pruning.criterion,
            seed=self._training.seed,
            **asdict(cost),
            widths=widths(network),
        )

    # -- training

    def _train_dense(self) -> None:
        rates = self._dense_rates
        if len(rates):
            self._train("dense model", rates)
        else:
            self._evaluated(None, None)
        self._settle_on_best()
        position = self._position
        self._position = replace(
            position,
            stage=Stage.CUT,
            dense_accuracy=position.best,
            result_accuracy=position.best,
        )
        self._journal.keep("dense", self._present().without_optimizer())
        self._checkpoint()

    def _fine_tune(self) -> None:
        goal = self._goal if self._pruning.until_recovered else None
        self._train(f"round {self._position.round}", self._round_rates, goal)
        self._settle_on_best()
        position = self._position
        recovered = self._goal is None or position.best >= self._goal
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
        self._position = replace(position, stage=Stage.CUT)
        if self._pruning.measure_speed:
            self._measure_speed()
        self._checkpoint()

    def _train(self, what: str, rates: NDArray[np.float64], goal: float | None = None) -> None:
        """Train from where the position is to the end of ``rates``, or to the goal."""
        every = self._training.evaluate_every or self._learner.batches_an_epoch
        self._watcher.begin(what, len(rates), self._position.done)
        while self._position.done < len(rates):
            upto = min(len(rates), (self._position.done // every + 1) * every)
            loss = self._train_until(upto, rates)
            accuracy = self._evaluated(loss, float(rates[upto - 1]))
            if goal is not None and accuracy >= goal:
                break
            if self._position.done < len(rates):
                self._checkpoint()
        self._watcher.end()

    def _train_until(self, upto: int, rates: NDArray[np.float64]) -> float:
        """Train to batch ``upto`` of this stage; the mean loss on the way."""
        total, start = 0.0, self._position.done
        self._keep_rewind_point()
        while self._position.done < upto:
            done = self._position.done
            end = self._rewind_point if done < self._rewind_point < upto else upto
            own = rates[done:end].tolist()
            loss = self._learner.train(self._position.batch, own, self._watcher.tick)
            total += loss * len(own)
            batch = self._position.batch + len(own)
            if not math.isfinite(loss):
                raise SecateursError(
                    f"training diverged: the mean loss of the {len(own)} batches before batch "
                    f"{batch} is {loss}. Lower the learning rate (it was {max(own):.3g}), or warm "
                    "it up for longer."
                )
            self._position = replace(self._position, batch=batch, done=end)
            self._keep_rewind_point()
        return total / (upto - start)

    def _evaluated(self, loss: float | None, rate: float | None) -> float:
        """Evaluate, record, and keep the model if it is the stage's best."""
        evaluation = self._evaluate("validation")
        now = time.monotonic()
        self._record(
            "train",
            round=self._position.round,
            batch=self._position.batch,
            loss=loss,
            validation_loss=evaluation.loss,
            accuracy=evaluation.accuracy,
            learning_rate=rate,
            seconds=round(now - self._last_record, 3),
        )
        self._last_record = now
        position = self._position
        # Of evaluations that are equally accurate, the surest.
        if (evaluation.accuracy, -evaluation.loss) > (position.best, -position.best_loss):
            self._best = self._learner.snapshot()
            self._position = replace(
                position,
                best=evaluation.accuracy,
                best_loss=evaluation.loss,
                best_batch=position.batch,
            )
        return evaluation.accuracy

    def _evaluate(self, part: Part) -> Evaluation:
        self._watcher.begin(f"evaluating on the {part} data", self._learner.batches_of(part))
        evaluation = self._learner.evaluate(part, self._watcher.tick)
        self._watcher.end()
        return evaluation

    def _settle_on_best(self) -> None:
        """Go back to the stage's best evaluation."""
        if self._best is not None and self._position.best_batch != self._position.batch:
            self._learner.restore(self._best)

    @property
    def _dense_rates(self) -> NDArray[np.float64]:
        training = self._training
        return learning_rates(
            training.schedule, training.learning_rate, training.batches, training.warm_up
        )

    @property
    def _round_rates(self) -> NDArray[np.float64]:
        if self._pruning.rewind:
            return self._dense_rates[self._rewind_to :]
        return fine_tuning_rates(self._training, self._learner.batches_an_epoch)

    @property
    def _fine_tune_batches(self) -> int:
        return self._training.fine_tune_batches or self._learner.batches_an_epoch

    @property
    def _goal(self) -> float | None:
        """The accuracy that counts as recovered; None if every accuracy does."""
        dense, tolerance = self._position.dense_accuracy, self._stop.tolerance
        return None if tolerance is None or dense is None else dense - tolerance - _ROUNDING

    # -- rewinding

    @property
    def _rewind_to(self) -> int:
        """The batch of dense training that rounds go back to."""
        if self._pruning.rewind == "lottery":
            return 0
        return max(0, self._training.batches - self._fine_tune_batches)

    @property
    def _rewind_point(self) -> int:
        """The batch of this stage at which values are to be kept; below 0 if there is none."""
        kept = self._pruning.rewind in ("weights", "lottery")
        return self._rewind_to if kept and self._position.stage is Stage.DENSE else -1

    def _keep_rewind_point(self) -> None:
        if self._position.done == self._rewind_point:
            self._journal.keep("rewind", self._learner.snapshot())

    def _rewind(self) -> None:
        """The survivors' values, and their optimizer's, at the batch that is gone back to."""
        so_far = self._learner.cut
        self._learner.restore(self._fetch("rewind"))
        self._learner.apply(so_far)

    # -- cutting

    def _cut_or_stop(self) -> None:
        # Written again after a crash just here; the checkpoint is what counts.
        if self._position.result_round and self._position.result_round == self._position.round:
            self._journal.keep("best", self._present().without_optimizer())
        network = self._learner.trace()
        reason = self._why_stop(network)
        if reason is None:
            said = self._learner.agree(lambda: self._planned(network).to_json())
            cut = Cut.from_json(said)
            if cut:
                self._cut(network, cut)
                return
            reason = "nothing more may go: every group is at its floor"
        self._end(reason)

    def _why_stop(self, network: Network) -> str | None:
        position, stop = self._position, self._stop
        if position.misses >= stop.patience and self._goal is not None:
            return (
                f"round {position.round} did not recover: {percent(position.best)} validation "
                f"accuracy, {percent(self._goal)} needed"
            )
        if fits(network, self._learner.cut, self._limits):
            limits = stop.budget.limits if stop.budget else {}
            return f"the budget is met: {', '.join(f'{k}={v}' for k, v in limits.items())}"
        if stop.rounds is not None and position.round >= stop.rounds:
            return f"{position.round} rounds were asked for"
        return None

    def _planned(self, network: Network) -> Cut:
        def planner(scores: Scores) -> Cut:
            return plan_round(network, scores, self._pruning, self._learner.cut, self._limits)

        scores = score_for(
            network,
            self._criterion,
            planner,
            data=self._learner.calibration(self._pruning.calibration_batches),
            loss=self._loss,
            seed=self._training.seed + self._position.round,
        )
        if scores.tournament is not None:
            self._record(
                "tournament", round=self._position.round + 1, **scores.tournament.to_plain()
            )
        return planner(scores)

    def _cut(self, network: Network, cut: Cut) -> None:
        number = self._position.round + 1
        report = self._learner.apply(cut, network)
        proof = report.proof
        evaluation = self._evaluate("validation")
        self._record(
            "prune",
            round=number,
            batch=self._position.batch,
            removed=cut.removed_channels,
            **asdict(network.cost(cut)),
            widths=widths(network, cut),
            accuracy=evaluation.accuracy,
            max_difference=report.max_difference,
            tolerance=None if proof is None else proof.tolerance,
            inexact=[] if proof is None else list(proof.inexact),
        )
        self._journal.keep_cut(number, cut)
        if self._pruning.rewind in ("weights", "lottery"):
            self._rewind()
        self._best = None
        self._position = replace(
            self._position,
            stage=Stage.FINE_TUNE,
            round=number,
            done=0,
            best=-1.0,
            best_loss=sys.float_info.max,
            best_batch=self._position.batch,
            proof=None if proof is None else asdict(proof),
        )
        self._checkpoint()

    def _measure_speed(self) -> None:
        dense = self._fetch("dense")
        if self._learner.is_main:
            self._record("speed", round=self._position.round, **self._learner.speed(dense))

    # -- the end

    def _end(self, reason: str) -> None:
        # The test data are looked at here and nowhere else.
        dense_test_accuracy = test_accuracy = self._tested("dense")
        if self._position.result_round:
            test_accuracy = self._tested("best")
        self._record(
            "stop",
            round=self._position.round,
            batch=self._position.batch,
            reason=reason,
            best_round=self._position.result_round,
            accuracy=self._position.result_accuracy,
            dense_accuracy=self._position.dense_accuracy,
            test_accuracy=test_accuracy,
            dense_test_accuracy=dense_test_accuracy,
        )
        self._position = replace(self._position, stage=Stage.ENDED)
        self._best = None
        self._checkpoint()

    def _tested(self, name: Name) -> float | None:
        if not self._learner.has_test:
            return None
        self._learner.restore(self._fetch(name))
        return self._evaluate("test").accuracy

    def _fetch_result(self) -> Snapshot:
        return self._fetch("best" if self._position.result_round else "dense")

    # -- keeping

    def _fetch(self, name: Name) -> Snapshot:
        self._learner.wait()  # the main process may be writing it
        return self._journal.fetch(name)

    def _present(self) -> Snapshot:
        """The model's values; those at hand where they are the stage's best."""
        position = self._position
        settled = position.stage is Stage.CUT or position.best_batch == position.batch
        return self._best if self._best is not None and settled else self._learner.snapshot()

    def _checkpoint(self) -> None:
        self._journal.checkpoint(self._position, self._present, self._best)

    def _record(self, kind: str, **values: Any) -> None:
        self._watcher.recorded(self._journal.history.append(kind, **values))


def check(
    learner: Learner, configuration: Configuration, criterion: str | Callable[[GroupData], Any]
) -> Network:
    """Find out what cannot be done, before anything is written or hours are spent.

    Returns:
        The dense model's network.

    Raises:
        SecateursError: the model's forward raises, nothing in it can be pruned, no cut meets the
            budget, there is no such criterion or layer, or there is nothing to rewind to.
    """
    pruning, stop = configuration.pruning, configuration.stop
    check_known(criterion)
    if pruning.rewind and not configuration.training.batches:
        raise SecateursError(
            f"rewind={pruning.rewind!r} goes back into dense training: expected training.batches "
            "above 0; received 0. Train the dense model here, or leave rewind out."
        )
    network = learner.trace()
    level = {group.name: np.zeros(len(group)) for group in network.groups}
    options: dict[str, Any] = {
        "scope": pruning.scope,
        "floor": pruning.floor,
        "multiple": pruning.multiple,
        "skip": pruning.skip,
    }
    plan(network, level, threshold=math.inf, **options)
    if stop.budget is not None:
        plan(network, level, stop.budget, **options)
    return network


def fine_tuning_rates(training: Training, batches_an_epoch: int) -> NDArray[np.float64]:
    """The learning rate of each batch of training after a cut."""
    batches = training.fine_tune_batches or batches_an_epoch
    peak = training.fine_tune_learning_rate
    if peak is None:
        peak = training.learning_rate * (0.2 if batches < batches_an_epoch else 1.0)
    return learning_rates(training.schedule, peak, batches, training.warm_up)


def widths(network: Network, cut: Cut | None = None) -> dict[str, int]:
    """Layer -> its filters, after ``cut``."""
    cuts = {} if cut is None else cut.tensors
    found: dict[str, int] = {}
    for tensor in network.tensors.values():
        shape = cuts[tensor.name].shape_after if tensor.name in cuts else tensor.shape
        for axis, role in tensor.roles.items():
            if role is Role.FILTER:
                found.setdefault(tensor.layer, shape[axis])
    return found
