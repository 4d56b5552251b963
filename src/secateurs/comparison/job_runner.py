"""The work of a job: train a dense model, or prune one and train it again.

Everything goes through ``secateurs.training.learner.Learner``, so models of either framework can be
compared.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from secateurs.channels.cut import Cut
from secateurs.channels.file_size import METADATA_KEY, metadata
from secateurs.channels.network import Network, Role
from secateurs.comparison.settings import Comparison, Job, parse_job
from secateurs.criteria.registry import AUTO, is_own
from secateurs.criteria.scoring import Scores, try_own
from secateurs.errors import BudgetError, CutError, DataError, ModelError, SecateursError
from secateurs.planning.auto_criterion import Planner, score_for
from secateurs.planning.budget import Budget
from secateurs.planning.planner import plan
from secateurs.reconstruction.pruner import repair_after_
from secateurs.settings.pruning import Pruning
from secateurs.study.training_schedule import TrainingSchedule
from secateurs.training.callbacks import Watcher
from secateurs.training.learner import Evaluation, Learner, Snapshot
from secateurs.training.schedules import learning_rates

PrunerFunction = Callable[[Learner, Job, Comparison], Learner]
"""Prunes a learner's model by a strategy that is not a criterion; returns a learner of the result.

This allows other libraries to be compared under the same conditions.
"""


@dataclass(frozen=True, slots=True)
class DenseResult:
    """The trained dense model of a seed.

    Attributes:
        seed: seed of its weights and training.
        params: number of parameters.
        macs: multiply-accumulates for one image.
        bytes: size of parameters and buffers.
        channels: total width of the groups that can be pruned.
        accuracy: accuracy on the split for judging, or the comparison's metric.
        loss: mean cross-entropy on that split.
        norms: layer -> L1 norm of each of its filters, divided by the number of weights in one.
        seconds: duration of its training.
    """

    seed: int
    params: int
    macs: int
    bytes: int
    channels: int
    accuracy: float
    loss: float
    norms: Mapping[str, Sequence[float]]
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a job.

    Attributes:
        strategy: strategy as requested.
        amount: share of the parameters, or of the comparison's unit, to remove.
        seed: seed of all randomness.
        params: number of parameters left.
        macs: multiply-accumulates for one image.
        bytes: size of parameters and buffers.
        channels: total width left in the groups that can be pruned.
        before: accuracy (or the comparison's metric, in its own units) after the last cut, before
            training.
        before_loss: mean cross-entropy before training.
        accuracy: accuracy after training.
        loss: mean cross-entropy after training.
        max_difference: largest difference in the proof; None if there was none.
        seconds_to_choose: duration of scoring, planning and cutting.
        seconds_to_train: duration of training.
        criterion: criterion that was chosen, where the strategy leaves that open.
        failure: why there are no results; '' if there are.
        caution: why the strategy may mean little here, or ''.
    """

    strategy: str
    amount: float
    seed: int
    params: int = 0
    macs: int = 0
    bytes: int = 0
    channels: int = 0
    before: float | None = None
    before_loss: float | None = None
    accuracy: float | None = None
    loss: float | None = None
    max_difference: float | None = None
    seconds_to_choose: float = 0.0
    seconds_to_train: float = 0.0
    criterion: str = ""
    failure: str = ""
    caution: str = ""

    @property
    def job(self) -> Job:
        """The job that this is the result of."""
        return Job(self.strategy, self.amount, self.seed)


@dataclass(frozen=True, slots=True)
class _Made:
    """Facts about a cut: the criterion chosen, the proof's difference, a caution."""

    criterion: str = ""
    max_difference: float | None = None
    caution: str = ""


@dataclass(eq=False)
class JobRunner:
    """Runs jobs one after the other, and caches what they share.

    Attributes:
        comparison: settings of all jobs.
        make: function from a seed to a learner of the untrained dense model.
        pruners: strategies that are not criteria.
        watcher: callback for what happens.
        functions: the user's own criteria, by name.
        loss: loss of each image, for criteria that need one; None is the learner's.
    """

    comparison: Comparison
    make: Callable[[int], Learner]
    pruners: Mapping[str, PrunerFunction] = field(default_factory=dict)
    watcher: Watcher = field(default_factory=Watcher)
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    loss: Callable[[Any, Any], Any] | None = None
    _learner: tuple[int, Learner] | None = None
    _scores: tuple[tuple[int, str], Scores, str] | None = None

    def train_dense(self, seed: int) -> tuple[DenseResult, bytes]:
        """Train the dense model of a seed; returns the result, and its safetensors content."""
        learner, training = self._learner_of(seed), self.comparison.training
        self._try_own_criteria(learner)
        start = time.monotonic()
        if training.batches:
            rates = learning_rates(
                training.schedule, training.learning_rate, training.batches, training.warm_up
            )
            self._train(learner, f"dense model, seed {seed}", rates.tolist())
        seconds = time.monotonic() - start
        judged = self._judge(learner)
        network = learner.trace()
        content = pack(learner, learner.snapshot())
        cost = asdict(network.cost())
        return DenseResult(
            seed,
            **cost,
            accuracy=learner.metric.value(judged.accuracy),
            loss=judged.loss,
            norms=filter_norms(network),
            seconds=round(seconds, 3),
        ), content

    def _try_own_criteria(self, learner: Learner) -> None:
        """Try the user's own criteria, so that their errors are reported before any training."""
        settings = self.comparison
        for strategy in settings.strategies:
            if strategy not in self.pruners:
                criterion, _ = parse_job(strategy, settings.scope, self.functions)
                data = learner.calibration(settings.calibration_batches)
                if criterion != AUTO and is_own(criterion):
                    try_own(learner.trace(), criterion, data, self.loss or learner.loss)

    def run(self, job: Job, dense: bytes) -> Outcome:
        """Prune a seed's dense model by a strategy, and train it again.

        What is impossible, such as an amount that the floors forbid, is recorded as the job's
        failure; other jobs continue.
        """
        try:
            return self._run_job(job, dense)
        except (BudgetError, CutError, DataError, ModelError, _DivergedError) as error:
            return Outcome(job.strategy, job.amount, job.seed, failure=str(error))

    def _run_job(self, job: Job, dense: bytes) -> Outcome:
        learner, to_choose, to_train = self._learner_of(job.seed), 0.0, 0.0
        learner.restore(unpack(learner, dense))
        if self.comparison.training.distillation:
            learner.follow(learner.snapshot())
        limits = self._limits(learner.trace(), job)
        done = 0
        for limit in limits:
            start = time.monotonic()
            learner, made = self._prune(learner, job, limit)
            to_choose += time.monotonic() - start
            before = self._judge(learner)
            rates = self._rates(learner)
            start = time.monotonic()
            self._train(learner, job.name, rates, done)
            to_train += time.monotonic() - start
            done += len(rates)
        after, metric = self._judge(learner), learner.metric
        return Outcome(
            job.strategy,
            job.amount,
            job.seed,
            **asdict(learner.trace().cost()),
            before=metric.value(before.accuracy),
            before_loss=before.loss,
            accuracy=metric.value(after.accuracy),
            loss=after.loss,
            max_difference=made.max_difference,
            seconds_to_choose=round(to_choose, 3),
            seconds_to_train=round(to_train, 3),
            criterion=made.criterion,
            caution=made.caution,
        )

    def _limits(self, dense: Network, job: Job) -> list[Budget]:
        """The absolute budget of each round, given the dense network, in equal steps."""
        settings = self.comparison
        if settings.rounds > 1 and job.strategy in self.pruners:
            raise DataError(
                f"{job.strategy}: expected rounds=1 for a strategy that makes its own cut"
            )
        shares = [
            1 - job.amount * (number + 1) / settings.rounds for number in range(settings.rounds)
        ]
        every = [Budget.of({settings.unit: share}).absolute_for(dense) for share in shares]
        return [Budget.from_absolute(limits) for limits in every]

    def _rates(self, learner: Learner) -> list[float]:
        """Learning rates of the training after a cut."""
        settings = self.comparison
        schedule = TrainingSchedule(
            settings.training, Pruning(rewind=settings.rewind), learner.batches_an_epoch
        )
        rates: list[float] = schedule.round_rates.tolist()
        return rates

    def _prune(self, learner: Learner, job: Job, limit: Budget) -> tuple[Learner, _Made]:
        """Prune; returns the learner of the pruned model, and facts about the cut."""
        settings = self.comparison
        if job.strategy in self.pruners:
            return self.pruners[job.strategy](learner, job, settings), _Made()
        criterion, scope = parse_job(job.strategy, settings.scope, self.functions)
        network = learner.trace()

        def planner(scores: Scores) -> Cut:
            return plan(
                network,
                scores,
                limit,
                scope=scope,
                floor=settings.floor,
                multiple=settings.multiple,
                skip=settings.skip,
            )

        scores, caution = self._score(job, learner, network, criterion, planner)
        cut = planner(scores)
        report = learner.apply(cut, network)
        if settings.repair:
            images = learner.calibration(settings.calibration_batches)
            repair_after_(network, learner.model, cut, images, job.seed)
        return learner, _Made(scores.criterion, report.max_difference, caution)

    def _score(
        self,
        job: Job,
        learner: Learner,
        network: Network,
        criterion: str | Callable[..., Any],
        planner: Planner,
    ) -> tuple[Scores, str]:
        """(scores, why they may mean little), cached since they are the same for all amounts."""
        key = (job.seed, job.strategy)
        again = criterion == AUTO or self.comparison.rounds > 1
        if self._scores is None or self._scores[0] != key or again:
            data = learner.calibration(self.comparison.calibration_batches)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                loss = self.loss or learner.loss
                scores = score_for(network, criterion, planner, data=data, loss=loss, seed=job.seed)
            cautions = [str(one.message) for one in caught if one.category is UserWarning]
            self._scores = (key, scores, " ".join(cautions))
        return self._scores[1:]

    def _train(self, learner: Learner, stage: str, rates: Sequence[float], first: int = 0) -> None:
        self.watcher.begin(stage, len(rates))
        loss = learner.train(first, rates, self.watcher.tick)
        self.watcher.end()
        if self.comparison.training.ema:
            _keep_better(learner)
        if not math.isfinite(loss):
            raise _DivergedError(
                f"training diverged: its mean loss is {loss}. Lower the learning rate (it was "
                f"{max(rates):.3g}), or warm it up for longer."
            )

    def _judge(self, learner: Learner) -> Evaluation:
        return learner.evaluate(self.comparison.judge_on, lambda: None)

    def _learner_of(self, seed: int) -> Learner:
        if self._learner is None or self._learner[0] != seed:
            self._learner = None  # free it first: a learner holds its data
            self._learner = (seed, self.make(seed))
        return self._learner[1]


class _DivergedError(SecateursError):
    """Training diverged."""


def pack(learner: Learner, snapshot: Snapshot) -> bytes:
    """Pack a model's weights into the content of a file that ``secateurs.load`` reads."""
    return learner.pack(snapshot.tensors, metadata(snapshot.cut))


def unpack(learner: Learner, content: bytes) -> Snapshot:
    """Unpack what ``pack`` wrote."""
    tensors, metadata = learner.unpack(content)
    return Snapshot(tensors, Cut.from_json(metadata[METADATA_KEY]))


def filter_norms(network: Network) -> dict[str, list[float]]:
    """Layer -> L1 norm of each of its filters, divided by the number of weights in one."""
    found: dict[str, list[float]] = {}
    for tensor in network.tensors.values():
        for axis, role in tensor.roles.items():
            if role is Role.FILTER and tensor.layer not in found:
                values = np.abs(np.moveaxis(network.source.array(tensor.name), axis, 0))
                norms = values.reshape(len(values), -1).mean(axis=1, dtype=np.float64)
                found[tensor.layer] = [float(norm) for norm in norms]
    return found


def _keep_better(learner: Learner) -> None:
    """Keep a learner's weights or their average, whichever is better on validation data."""
    plain, average = (
        learner.evaluate("validation", lambda: None, averaged) for averaged in (False, True)
    )
    if (average.accuracy, -average.loss) > (plain.accuracy, -plain.loss):
        learner.restore(learner.snapshot().take_average())
