"""Training of one stage of a study, with regular evaluations of which the best is kept."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import SecateursError
from secateurs.study.position import StudyStage
from secateurs.study.session import Session
from secateurs.study.training_schedule import TrainingSchedule
from secateurs.training.learner import Evaluation
from secateurs.training.memory import explain_memory_errors


class DivergedError(SecateursError):
    """Training diverged: its loss is NaN or infinite."""


def _is_better(one: Evaluation, other: Evaluation) -> bool:
    """Whether an evaluation is more accurate, or as accurate with a lower loss."""
    return (one.accuracy, -one.loss) > (other.accuracy, -other.loss)


class StageTrainer:
    """Trains a session's model to the end of its stage."""

    def __init__(self, session: Session, schedule: TrainingSchedule) -> None:
        self._session = session
        self._schedule = schedule

    def train(self, stage: str, rates: NDArray[np.float64], goal: float | None = None) -> None:
        """Train from the present position to the end of ``rates``, or until the goal is reached.

        The position and a checkpoint are stored after each evaluation; the best one is kept.

        Args:
            stage: name of the stage, for the watcher.
            rates: learning rate of each batch of the stage, shape (batches,).
            goal: accuracy at which the stage ends early.

        Raises:
            DivergedError: the loss is not finite. The last checkpoint is still valid.
        """
        session = self._session
        every = self._schedule.evaluate_every
        session.watcher.begin(stage, len(rates), session.position.done)
        try:
            while session.position.done < len(rates):
                upto = min(len(rates), (session.position.done // every + 1) * every)
                loss = self._train_until(upto, rates)
                accuracy = self.evaluate(loss, float(rates[upto - 1]))
                if goal is not None and accuracy >= goal:
                    break
                if session.position.done < len(rates):
                    session.checkpoint()
        finally:
            session.watcher.end()

    def evaluate(self, loss: float | None = None, rate: float | None = None) -> float:
        """Evaluate and record; keeps the model if it is the stage's best. Returns its accuracy."""
        session = self._session
        evaluation = session.evaluate("validation")
        if not math.isfinite(evaluation.loss):
            raise DivergedError(
                f"training diverged: the validation loss at batch {session.position.batch} is "
                f"{evaluation.loss}. Lower the learning rate, or warm it up for longer."
            )
        averages = loss is not None and bool(self._schedule.training.ema)
        average = session.evaluate("validation", averaged=True) if averages else evaluation
        is_average = _is_better(average, evaluation)
        better = average if is_average else evaluation
        session.record(
            "train",
            round=session.position.round,
            batch=session.position.batch,
            loss=loss,
            validation_loss=better.loss,
            **session.metric.field(better.accuracy),
            **({"averaged": is_average} if averages else {}),
            learning_rate=rate,
            seconds=round(session.seconds_since_last(), 3),
        )
        position = session.position
        if _is_better(better, Evaluation(position.best, position.best_loss)):
            present = session.learner.snapshot()
            session.best = present.take_average() if is_average else present
            session.move(
                best=better.accuracy,
                best_loss=better.loss,
                best_batch=position.batch,
                best_is_average=is_average,
            )
        return better.accuracy

    def _train_until(self, upto: int, rates: NDArray[np.float64]) -> float:
        """Train to batch ``upto`` of this stage; returns the mean loss."""
        session = self._session
        total, start = 0.0, session.position.done
        self._keep_rewind_point()
        while session.position.done < upto:
            done = session.position.done
            end = self._rewind_point if done < self._rewind_point < upto else upto
            part = rates[done:end].tolist()
            with explain_memory_errors(self._schedule.training.batch_size):
                loss = session.learner.train(session.position.batch, part, session.watcher.tick)
            total += loss * len(part)
            batch = session.position.batch + len(part)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"training diverged: the mean loss of the {len(part)} batches before batch "
                    f"{batch} is {loss}. Lower the learning rate (it was {max(part):.3g}), or warm "
                    "it up for longer."
                )
            session.move(batch=batch, done=end)
            self._keep_rewind_point()
        return total / (upto - start)

    @property
    def _rewind_point(self) -> int:
        """Batch of this stage at which weights are stored for rewinding; negative if none."""
        kept = self._schedule.rewinds_weights and self._session.position.stage is StudyStage.DENSE
        return self._schedule.rewind_to if kept else -1

    def _keep_rewind_point(self) -> None:
        if self._session.position.done == self._rewind_point:
            self._session.store.keep("rewind", self._session.learner.snapshot())
