"""Who carries jobs out: this process, several side by side, or a cluster with Ray."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Protocol

from secateurs.comparison.job_runner import DenseResult, JobRunner, Outcome, PrunerFunction
from secateurs.comparison.settings import Comparison, Job
from secateurs.errors import SecateursError
from secateurs.study.learning import learner_of, learning_named
from secateurs.training.learner import Learner

JobResult = tuple[DenseResult, bytes] | Outcome

_LIVES = 3
"""Times that a job is tried whose process is killed."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One thing to do, with all that another process, or another machine, needs for it.

    Attributes:
        comparison: as JSON; names say how to build the model and the data.
        seed: of the dense model to train, where there is no job.
        job: what to prune and to train again.
        dense: the dense model's values, for a job.
        pruners: strategies that are not criteria.
    """

    comparison: str
    seed: int
    job: Job | None = None
    dense: bytes = field(default=b"", repr=False)
    pruners: Mapping[str, PrunerFunction] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What is being done."""
        return f"dense model, seed {self.seed}" if self.job is None else self.job.name


class Executor(Protocol):
    """Carries orders out, in any order."""

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, JobResult]]:
        """Each order with what it came to, as they are done."""
        ...


@dataclass(frozen=True, eq=False)
class SerialExecutor:
    """One after the other, in this process; the only crew for models that have no name."""

    contest: JobRunner

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, JobResult]]:
        """Each order with what it came to."""
        for order in orders:
            yield order, _run_job(self.contest, order)


@dataclass(frozen=True)
class ProcessExecutor:
    """Side by side on this machine.

    Attributes:
        count: how many processes; they share the machine's cores evenly.
    """

    count: int

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, JobResult]]:
        """Each order with what it came to, as they are done."""
        waiting = list(orders)
        try:
            for order, result in _side_by_side(orders, self.count):
                waiting.remove(order)
                yield order, result
        except BrokenProcessPool:
            # One of them takes its process with it; which, is found out one at a time.
            for order in waiting:
                yield order, _apart(order, self.count)


@dataclass(frozen=True)
class RayExecutor:
    """Over the machines of a Ray cluster; secateurs is installed on each.

    Attributes:
        address: of the cluster, "auto" for the one this machine is part of, or "local" to begin one
            of this machine alone.
        cores: of a machine that one job takes.
    """

    address: str
    cores: int = 1

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, JobResult]]:
        """Each order with what it came to, as they are done."""
        ray = _ray()
        begun = not ray.is_initialized()
        if begun:
            _connect(ray, self.address)
        try:
            yield from self._carry_out(ray, orders)
        finally:
            if begun:
                ray.shutdown()

    def _carry_out(
        self, ray: Any, orders: Sequence[WorkItem]
    ) -> Iterator[tuple[WorkItem, JobResult]]:
        carry_out = ray.remote(num_cpus=self.cores, max_retries=_LIVES - 1)(carry_out_order)
        shared: dict[int, Any] = {}  # a seed's dense model is sent once, not with every job
        running = {}
        for order in orders:
            if order.dense and order.seed not in shared:
                shared[order.seed] = ray.put(order.dense)
            bare = WorkItem(order.comparison, order.seed, order.job, b"", order.pruners)
            running[carry_out.remote(bare, shared.get(order.seed, b""))] = order
        while running:
            done, _ = ray.wait(list(running))
            for reference in done:
                try:
                    result = ray.get(reference)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                    result = report_lost(running[reference])
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, SecateursError):
                        raise error.cause from error
                    raise
                yield running.pop(reference), result


def carry_out_order(order: WorkItem, dense: bytes = b"") -> JobResult:
    """Carry one order out in a process of a crew."""
    contest = _contest(order.comparison, tuple(order.pruners.items()))
    if dense:
        order = WorkItem(order.comparison, order.seed, order.job, dense, order.pruners)
    return _run_job(contest, order)


def learner_factory(comparison: Comparison) -> Callable[[int], Learner]:
    """Seed -> a learner of the model and the data that the task names."""

    def make(seed: int) -> Learner:
        from secateurs.study.building import build_task

        task = comparison.task
        model, sources = build_task(task, seed)
        training = comparison.training.model_copy(update={"seed": seed})
        return learner_of(model, sources, training, learning_named(model, task))

    return make


@functools.lru_cache(maxsize=1)
def _contest(comparison: str, pruners: tuple[tuple[str, PrunerFunction], ...]) -> JobRunner:
    """The contest this process is in: what one job has built, the next may use again."""
    settings = Comparison.model_validate_json(comparison)
    return JobRunner(settings, learner_factory(settings), dict(pruners))


def _run_job(contest: JobRunner, order: WorkItem) -> JobResult:
    if order.job is None:
        return contest.train_dense(order.seed)
    return contest.run(order.job, order.dense)


def _prepare(threads: int) -> None:
    """Give a process its share of the cores, whichever framework it will import."""
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _side_by_side(orders: Sequence[WorkItem], count: int) -> Iterator[tuple[WorkItem, JobResult]]:
    """Each order with what it came to, in processes that are kept; they share the cores evenly.

    Raises:
        BrokenProcessPool: one of them was killed, and took the others' work along.
    """
    threads = max(1, (os.cpu_count() or 1) // count)
    # Not forked: a child of a process in which a framework has begun threads can hang.
    pool = ProcessPoolExecutor(
        min(count, max(1, len(orders))), get_context("spawn"), _prepare, (threads,)
    )
    try:
        running = {pool.submit(carry_out_order, order): order for order in orders}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                yield running.pop(one), one.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _apart(order: WorkItem, count: int) -> JobResult:
    """What an order comes to in a process of its own, tried again where that is killed."""
    for _ in range(_LIVES):
        try:
            return next(_side_by_side([order], count))[1]
        except BrokenProcessPool:
            continue
    return report_lost(order)


def report_lost(order: WorkItem) -> Outcome:
    """A job whose process is killed again and again: it is lost, the others are not.

    Raises:
        SecateursError: it is a dense model, which all jobs of its seed need.
    """
    reason = f"the process that worked on it was killed {_LIVES} times, for lack of memory perhaps"
    if order.job is None:
        raise SecateursError(
            f"{order.name}: {reason}. What is done is kept: give the same command again, with "
            "fewer --jobs"
        )
    return Outcome(
        order.job.strategy,
        order.job.amount,
        order.job.seed,
        failure=f"{reason}; delete jobs/{order.job.name}.json to have it done again",
    )


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise SecateursError(
            "--ray: expected Ray to be installed; it is not. pip install 'secateurs[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    check_reachable(address)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, TimeoutError) as error:
        raise SecateursError(
            f"--ray: expected the address of a Ray cluster, auto or local; received {address!r} "
            f"({' '.join(str(error).split())})"
        ) from error


def check_reachable(address: str) -> None:
    """Ray itself waits for a minute for a machine that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise SecateursError(
            f"--ray: expected the address of a Ray cluster, auto or local; received {address!r}, "
            f"where nobody answers ({error})"
        ) from error
