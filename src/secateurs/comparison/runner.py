"""Running a comparison, or resuming it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secateurs.arguments import takes_as_annotated
from secateurs.comparison.executors import Executor, JobResult, WorkItem
from secateurs.comparison.job_runner import DenseResult, Outcome, PrunerFunction
from secateurs.comparison.results import Results
from secateurs.comparison.settings import NOTHING, Comparison, parse_job
from secateurs.comparison.store import ResultStore
from secateurs.errors import SecateursError
from secateurs.files import write_atomically


class ComparisonCallback:
    """Base class of callbacks for the progress of a comparison; does nothing."""

    def begin(self, jobs: int, done: int) -> None:
        """Called at the start with the total and completed job counts."""

    def trained(self, dense: DenseResult) -> None:
        """Called when a dense model has been trained."""

    def finished(self, outcome: Outcome) -> None:
        """Called when a job is done."""


@takes_as_annotated(SecateursError)
def run_comparison(
    comparison: Comparison,
    directory: str | Path,
    crew: Executor,
    *,
    pruners: Mapping[str, PrunerFunction] = NOTHING,
    functions: Mapping[str, Callable[..., Any]] = NOTHING,
    fresh: bool = False,
    callback: ComparisonCallback | None = None,
) -> Results:
    """Run every job that has no result yet, and write tables, figures and the page.

    Args:
        comparison: what to compare.
        directory: where results are kept; a comparison found there is resumed, also after a crash.
        crew: executor of the jobs.
        pruners: strategies that are not criteria, by name.
        functions: the user's own criteria, by name; the executor must know them too.
        fresh: whether to start over if the directory holds a comparison.
        callback: callback for what happens.

    Raises:
        SecateursError: a setting cannot be met; raised before any training where possible.
        StudyError: the directory holds something else, or cannot be written.
    """
    for strategy in comparison.strategies:
        if strategy not in pruners:
            parse_job(strategy, comparison.scope, functions)
    with ResultStore.hold(directory, comparison, fresh=fresh) as ledger:
        _do_jobs(ledger, crew, pruners, callback or ComparisonCallback())
        results = Results(comparison, ledger.denses, ledger.outcomes)
        write(results, ledger.directory)
    return results


def _do_jobs(
    ledger: ResultStore,
    crew: Executor,
    pruners: Mapping[str, PrunerFunction],
    callback: ComparisonCallback,
) -> None:
    """Run and store whatever has no result yet: dense models first, then jobs."""
    settings, jobs = ledger.comparison.to_json(), ledger.comparison.jobs
    open_jobs = [job for job in jobs if ledger.outcome(job) is None]
    callback.begin(len(jobs), len(jobs) - len(open_jobs))
    seeds = dict.fromkeys(job.seed for job in open_jobs)
    untrained = [WorkItem(settings, seed) for seed in seeds if ledger.dense(seed) is None]
    for _, result in crew.carry_out(untrained):
        _keep(ledger, result, callback)
    contents = {seed: ledger.dense_content(seed) for seed in seeds}
    travelling = dict(pruners)  # a mapping proxy cannot be pickled
    orders = [
        WorkItem(settings, job.seed, job, contents[job.seed], travelling) for job in open_jobs
    ]
    for _, result in crew.carry_out(orders):
        _keep(ledger, result, callback)


@takes_as_annotated(SecateursError)
def write(results: Results, directory: Path) -> Path:
    """Write tables, figures and the page of the results; returns the page's path."""
    from secateurs.report import contest_page

    write_atomically(directory / "results.csv", results.to_csv().encode())
    write_atomically(directory / "results.json", results.to_json().encode())
    write_atomically(directory / "summary.csv", results.summary_to_csv().encode())
    write_atomically(directory / "paired.csv", results.pairs_to_csv().encode())
    write_atomically(directory / "summary.tex", results.to_latex().encode())
    return contest_page.write(results.to_plain(), directory)


def _keep(ledger: ResultStore, result: JobResult, callback: ComparisonCallback) -> None:
    if isinstance(result, Outcome):
        ledger.keep(result)
        callback.finished(result)
    else:
        ledger.keep_dense(*result)
        callback.trained(result[0])
