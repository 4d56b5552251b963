"""Which executor runs jobs, and what a worker that dies costs."""

import socket
import time

import pytest

import secateurs as sec
from secateurs.comparison import executors
from secateurs.comparison.executors import ProcessExecutor, WorkItem
from secateurs.comparison.settings import Job
from support import orders


def order(strategy, amount):
    return WorkItem("{}", 0, Job(strategy, amount, 0))


def test_a_worker_that_is_killed_again_and_again_costs_its_job_only(monkeypatch):
    monkeypatch.setattr(executors, "carry_out_order", orders.carry_out)
    asked = [order("l1", 0.3), order("fatal", 0.5), order("l1", 0.5), order("l2", 0.5)]
    done = {one.name: result for one, result in ProcessExecutor(2).carry_out(asked)}
    assert [done[one.name].params for one in asked] == [7, 0, 7, 7]
    failure = done["fatal-50-seed0"].failure
    assert "was killed 3 times" in failure
    assert "delete jobs/fatal-50-seed0.json to repeat it" in failure


def test_a_dense_model_that_cannot_be_trained_ends_the_comparison():
    with pytest.raises(sec.SecateursError, match=r"dense model, seed 4: its .* fewer --jobs"):
        executors.report_lost(WorkItem("{}", 4))


def test_a_cluster_that_is_not_there_is_said_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = taken.getsockname()[1]
        start = time.monotonic()
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "localhost:x"):
            with pytest.raises(sec.SecateursError, match=r"--ray: .*which does not answer"):
                executors.check_reachable(address)
        assert time.monotonic() - start < 20
    executors.check_reachable("auto")
