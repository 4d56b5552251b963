"""Executors of jobs: this process, several local processes, or a Ray cluster."""

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

_ATTEMPTS = 3
"""Number of attempts for a job whose process is killed."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One piece of work, with everything that another process or machine needs for it.

    Attributes:
        comparison: the comparison as JSON; names say how to build the model and the data.
        seed: seed of the dense model to train, if there is no job.
        job: what to prune and retrain.
        dense: the dense model's weights, for a job.
        pruners: strategies that are not criteria.
    """

    comparison: str
    seed: int
    job: Job | None = None
    dense: bytes = field(default=b"", repr=False)
    pruners: Mapping[str, PrunerFunction] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the work, for messages."""
        return f"dense model, seed {self.seed}" if self.job is None else self.job.name


class Executor(Protocol):
    """Carries out work items, in any order."""

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, JobResult]]:
        """Yield each item with its result, as they complete."""
        ...


@dataclass(frozen=True, eq=False)
class SerialExecutor:
    """One after the other in this process; the only executor for models without a name."""

    contest: JobRunner

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, JobResult]]:
        """Yield each item with its result."""
        for order in orders:
            yield order, _run_job(self.contest, order)


@dataclass(frozen=True)
class ProcessExecutor:
    """Several processes on this machine.

    Attributes:
        count: number of processes, which share the machine's cores evenly.
    """

    count: int

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, JobResult]]:
        """Yield each item with its result, as they complete."""
        waiting = list(orders)
        try:
            for order, result in _run_in_pool(orders, self.count):
                waiting.remove(order)
                yield order, result
        except BrokenProcessPool:
            # One item crashed its process; running them one at a time finds out which.
            for order in waiting:
                yield order, _run_alone(order, self.count)


@dataclass(frozen=True)
class RayExecutor:
    """The machines of a Ray cluster; secateurs must be installed on each.

    Attributes:
        address: address of the cluster, "auto" for the one that this machine belongs to, or
            "local" to start one on this machine only.
        cores: number of cores for each job.
    """

    address: str
    cores: int = 1

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, JobResult]]:
        """Yield each item with its result, as they complete."""
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
        carry_out = ray.remote(num_cpus=self.cores, max_retries=_ATTEMPTS - 1)(carry_out_order)
        shared: dict[int, Any] = {}  # a seed's dense model is sent once, not with each job
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
    """Carry out one item in a worker process."""
    contest = _contest(order.comparison, tuple(order.pruners.items()))
    if dense:
        order = WorkItem(order.comparison, order.seed, order.job, dense, order.pruners)
    return _run_job(contest, order)


def learner_factory(comparison: Comparison) -> Callable[[int], Learner]:
    """A function from a seed to a learner of the model and data that the task names."""

    def make(seed: int) -> Learner:
        from secateurs.study.building import build_task

        task = comparison.task
        model, sources = build_task(task, seed)
        training = comparison.training.model_copy(update={"seed": seed})
        return learner_of(model, sources, training, learning_named(model, task))

    return make


@functools.lru_cache(maxsize=1)
def _contest(comparison: str, pruners: tuple[tuple[str, PrunerFunction], ...]) -> JobRunner:
    """The job runner of this process, cached so that jobs can share what they have built."""
    settings = Comparison.model_validate_json(comparison)
    return JobRunner(settings, learner_factory(settings), dict(pruners))


def _run_job(contest: JobRunner, order: WorkItem) -> JobResult:
    if order.job is None:
        return contest.train_dense(order.seed)
    return contest.run(order.job, order.dense)


def _prepare(threads: int) -> None:
    """Limit a process to its share of the cores, whichever framework it will import."""
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _run_in_pool(orders: Sequence[WorkItem], count: int) -> Iterator[tuple[WorkItem, JobResult]]:
    """Yield each item with its result, from a pool of processes that share the cores evenly.

    Raises:
        BrokenProcessPool: one of them was killed, and the others' work was lost with it.
    """
    threads = max(1, (os.cpu_count() or 1) // count)
    # Not forked: the child of a process with running framework threads can hang.
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


def _run_alone(order: WorkItem, count: int) -> JobResult:
    """Run an item in a process of its own, and retry if that is killed."""
    for _ in range(_ATTEMPTS):
        try:
            return next(_run_in_pool([order], count))[1]
        except BrokenProcessPool:
            continue
    return report_lost(order)


def report_lost(order: WorkItem) -> Outcome:
    """Outcome of a job whose process is killed repeatedly; the other jobs continue.

    Raises:
        SecateursError: the item is a dense model, which all jobs of its seed need.
    """
    reason = f"its worker process was killed {_ATTEMPTS} times, perhaps for lack of memory"
    if order.job is None:
        raise SecateursError(
            f"{order.name}: {reason}. Finished jobs are kept: run the same command again with "
            "fewer --jobs"
        )
    return Outcome(
        order.job.strategy,
        order.job.amount,
        order.job.seed,
        failure=f"{reason}; delete jobs/{order.job.name}.json to repeat it",
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
    """Check that a host accepts connections, because Ray itself waits for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise SecateursError(
            f"--ray: expected the address of a Ray cluster, auto or local; received {address!r}, "
            f"which does not answer ({error})"
        ) from error
