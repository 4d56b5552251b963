"""Who carries jobs out: this process, several side by side, or a cluster with Ray."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Protocol

from secateurs.comparison.job_runner import Dense, JobRunner, Outcome, Pruner
from secateurs.comparison.settings import Comparison, Job
from secateurs.errors import SecateursError
from secateurs.training.learner import Learner

Result = tuple[Dense, bytes] | Outcome


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
    pruners: Mapping[str, Pruner] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What is being done."""
        return f"dense model, seed {self.seed}" if self.job is None else self.job.name


class Executor(Protocol):
    """Carries orders out, in any order."""

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, Result]]:
        """Each order with what it came to, as they are done."""
        ...


@dataclass(frozen=True, eq=False)
class SerialExecutor:
    """One after the other, in this process; the only crew for models that have no name."""

    contest: JobRunner

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, Result]]:
        """Each order with what it came to."""
        for order in orders:
            yield order, _done(self.contest, order)


@dataclass(frozen=True)
class ProcessExecutor:
    """Side by side on this machine.

    Attributes:
        count: how many processes; they share the machine's cores evenly.
    """

    count: int

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, Result]]:
        """Each order with what it came to, as they are done."""
        threads = max(1, (os.cpu_count() or 1) // self.count)
        # Not forked: a child of a process in which a framework has begun threads can hang.
        pool = ProcessPoolExecutor(
            min(self.count, max(1, len(orders))), get_context("spawn"), _prepare, (threads,)
        )
        try:
            running = {pool.submit(carry_out_order, order): order for order in orders}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    yield running.pop(one), _result_of(one)
        finally:
            pool.shutdown(cancel_futures=True)


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

    def carry_out(self, orders: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, Result]]:
        """Each order with what it came to, as they are done."""
        ray = _ray()
        begun = not ray.is_initialized()
        if begun:
            _connect(ray, self.address)
        try:
            yield from self._carried_out(ray, orders)
        finally:
            if begun:
                ray.shutdown()

    def _carried_out(
        self, ray: Any, orders: Sequence[WorkItem]
    ) -> Iterator[tuple[WorkItem, Result]]:
        carry_out = ray.remote(num_cpus=self.cores)(carry_out_order)
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
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, SecateursError):
                        raise error.cause from error
                    raise
                yield running.pop(reference), result


def carry_out_order(order: WorkItem, dense: bytes = b"") -> Result:
    """Carry one order out in a process of a crew."""
    contest = _contest(order.comparison, tuple(order.pruners.items()))
    if dense:
        order = WorkItem(order.comparison, order.seed, order.job, dense, order.pruners)
    return _done(contest, order)


def learner_factory(comparison: Comparison) -> Callable[[int], Learner]:
    """Seed -> a learner of the model and the data that the task names."""

    def make(seed: int) -> Learner:
        from secateurs.backends import backend_of
        from secateurs.study.building import build_task

        model, sources = build_task(comparison.task, seed)
        training = comparison.training.model_copy(update={"seed": seed})
        learner: Learner = backend_of(model).Learner(
            model, sources.train, sources.validation, sources.test, training
        )
        return learner

    return make


@functools.lru_cache(maxsize=1)
def _contest(comparison: str, pruners: tuple[tuple[str, Pruner], ...]) -> JobRunner:
    """The contest this process is in: what one job has built, the next may use again."""
    told = Comparison.model_validate_json(comparison)
    return JobRunner(told, learner_factory(told), dict(pruners))


def _done(contest: JobRunner, order: WorkItem) -> Result:
    if order.job is None:
        return contest.train_dense(order.seed)
    return contest.run(order.job, order.dense)


def _prepare(threads: int) -> None:
    """Give a process its share of the cores, whichever framework it will import."""
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _result_of(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise SecateursError(
            "a process was killed while it worked, for lack of memory perhaps. What is done is "
            "kept: give the same command again, with fewer --jobs"
        ) from error


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise SecateursError(
            "--ray: expected Ray to be installed; it is not. pip install 'secateurs[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
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
