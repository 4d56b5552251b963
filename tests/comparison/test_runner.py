"""Comparisons: what their numbers are, that they resume, and who does the work."""

import csv
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import secateurs as sec
from comparison.conftest import carried_out, told
from secateurs import data, models
from secateurs.comparison import (
    Comparison,
    ComparisonCallback,
    ProcessExecutor,
    RayExecutor,
    Results,
    ResultStore,
    parse_job,
    run_comparison,
)
from secateurs.errors import BudgetError, SecateursError, StudyError, UnknownNameError
from secateurs.settings.training import Training
from secateurs.training.feed import ALL, ArrayFeed
from secateurs.training.schedules import learning_rates

TIMES = ("seconds_to_choose", "seconds_to_train")


def numbers(outcomes):
    """What outcomes say, but for how long they took."""
    plain = [{k: getattr(one, k) for k in one.__slots__ if k not in TIMES} for one in outcomes]
    return sorted(plain, key=lambda one: (one["strategy"], one["amount"], one["seed"]))


def splits():
    loaded = data.load("digits", limit=200, seed=0)
    return loaded.train, loaded.validation, loaded.test


def dense_model(directory, seed=0):
    model = models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)
    return sec.load(model, directory / "dense" / f"seed-{seed}.safetensors").eval()


def accuracy(model, split):
    images, labels = split.batch(slice(None))
    with torch.no_grad():
        return float((model(torch.from_numpy(images)).argmax(1).numpy() == labels).mean())


def test_a_job_is_what_the_public_calls_and_a_plain_loop_make_of_it(found):
    results, directory = found
    outcome = next(
        one for one in results.outcomes if (one.strategy, one.amount, one.seed) == ("l1", 0.6, 1)
    )
    train, validation, _ = splits()
    dense = dense_model(directory, seed=1)
    images, _ = train.batch(slice(0, 1))
    pruned = sec.prune(dense, images, sec.Budget(params=0.4), criterion="l1")
    assert outcome.params == sum(p.numel() for p in pruned.model.parameters())
    assert outcome.before == pytest.approx(accuracy(pruned.model, validation))

    rates = learning_rates("cosine", 0.02 * 0.2, 3, 0.1)  # a fifth: shorter than an epoch
    optimizer = torch.optim.SGD(
        pruned.model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    feed = ArrayFeed(train, 32, seed=1)
    pruned.model.train()
    for batch, rate in zip(feed.shuffle(0, 0, ALL), rates, strict=False):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = F.cross_entropy(
            pruned.model(torch.from_numpy(batch.images)), torch.from_numpy(batch.labels)
        )
        loss.backward()
        optimizer.step()
    assert outcome.accuracy == pytest.approx(accuracy(pruned.model.eval(), validation))


def test_the_share_removed_is_the_one_asked_for(found):
    results, _ = found
    assert len(results.outcomes) == 2 * 2 * 2
    for row in results.rows:
        assert row["amount"] <= row["params_removed"] < row["amount"] + 0.06
        assert row["max_difference"] < 1e-4


def test_tables_hold_mean_and_spread_over_seeds(found):
    results, directory = found
    files = [json.loads(path.read_text()) for path in (directory / "jobs").glob("*.json")]
    own = [one["accuracy"] for one in files if (one["strategy"], one["amount"]) == ("l1", 0.3)]
    assert len(own) == 2
    summary = list(csv.DictReader(io.StringIO((directory / "summary.csv").read_text())))
    row = next(r for r in summary if (r["strategy"], float(r["amount"])) == ("l1", 0.3))
    assert float(row["accuracy"]) == pytest.approx(np.mean(own))
    assert float(row["accuracy_std"]) == pytest.approx(np.std(own, ddof=1))
    rows = list(csv.DictReader(io.StringIO((directory / "results.csv").read_text())))
    assert sorted(float(r["accuracy"]) for r in rows) == sorted(one["accuracy"] for one in files)
    assert json.loads((directory / "results.json").read_text())["summary"][0]["seeds"] == 2
    shown = f"{100 * np.mean(own):.1f} +- {100 * np.std(own, ddof=1):.1f}"
    assert shown in str(results)


def test_norms_are_those_of_the_dense_model(found):
    _, directory = found
    dense = json.loads((directory / "dense" / "seed-0.json").read_text())
    model = dense_model(directory)
    weights = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    }
    assert set(dense["norms"]) == set(weights)
    for name, weight in weights.items():
        expected = weight.detach().abs().flatten(1).mean(1).numpy()
        np.testing.assert_allclose(dense["norms"][name], expected, rtol=1e-5)


class Stopping(ComparisonCallback):
    """Breaks off after so many jobs."""

    def __init__(self, after):
        self.left = after
        self.done = []

    def finished(self, outcome):
        self.done.append(outcome.job)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_it_goes_on_where_it_was_broken_off(found, tmp_path):
    first, second = Stopping(3), Stopping(99)
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path / "a", callback=first)
    results = carried_out(tmp_path / "a", callback=second)
    assert len(first.done) == 3
    assert len(second.done) == 5
    assert not set(first.done) & set(second.done)
    assert numbers(results.outcomes) == numbers(found[0].outcomes)


def test_it_survives_a_kill(found, tmp_path):
    place = tmp_path / "killed"
    code = "import sys; from comparison.conftest import carried_out; carried_out(sys.argv[1])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen([sys.executable, "-c", code, str(place)], env=environment)
    deadline = time.monotonic() + 120
    while len(list(place.glob("jobs/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = len(list(place.glob("jobs/*.json")))
    assert done >= 2
    results = carried_out(place)
    # Another process may compute with another number of threads, which round differently.
    pairs = zip(numbers(results.outcomes), numbers(found[0].outcomes), strict=True)
    for present, expected in pairs:
        for name, value in expected.items():
            near = pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value
            assert present[name] == near


def test_a_half_written_result_is_no_result(tmp_path):
    results = carried_out(tmp_path, told(seeds=1, amounts=(0.3,), strategies=("l1",)))
    path = next((tmp_path / "jobs").glob("*.json"))
    path.write_text(path.read_text()[:40])
    with pytest.raises(StudyError, match=r"cannot be read as a comparison's result.*Delete it"):
        carried_out(tmp_path, told(seeds=1, amounts=(0.3,), strategies=("l1",)))
    path.unlink()
    again = carried_out(tmp_path, told(seeds=1, amounts=(0.3,), strategies=("l1",)))
    assert numbers(again.outcomes) == numbers(results.outcomes)


def test_strategies_may_be_added_and_nothing_else_may_change(tmp_path):
    small = {"seeds": 1, "amounts": (0.3,)}
    carried_out(tmp_path, told(**small, strategies=("l1",)))
    seen = Stopping(99)
    more = carried_out(tmp_path, told(**small, strategies=("l1", "random")), callback=seen)
    assert [job.strategy for job in seen.done] == ["random"]
    assert len(more.outcomes) == 2
    other = told(**small, strategies=("l1",), training=Training(batches=7, batch_size=32))
    with pytest.raises(StudyError, match=r"another comparison \(training.batches: 6, not 7"):
        carried_out(tmp_path, other)
    carried_out(tmp_path, told(**small, strategies=("l2",)), fresh=True)
    assert [path.stem for path in (tmp_path / "jobs").glob("*")] == ["l2-30-seed0"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scope", "network"),
        ("floor", 0.2),
        ("multiple", 4),
        ("skip", ("head",)),
        ("calibration_batches", 2),
        ("judge_on", "test"),
    ],
)
def test_a_ledger_takes_more_jobs_of_the_same_conditions_alone(tmp_path, name, value):
    ResultStore.begin(tmp_path, told())
    more = told(strategies=("l2",), amounts=(0.5,), seeds=5, command=("again",))
    assert (
        ResultStore.begin(tmp_path, more).comparison
        == ResultStore.open(tmp_path).comparison
        == more
    )
    with pytest.raises(StudyError, match=f"another comparison .{name}"):
        ResultStore.begin(tmp_path, told(**{name: value}))
    assert ResultStore.open(tmp_path).comparison == more


def test_what_cannot_be_done_is_part_of_the_result(tmp_path):
    results = carried_out(
        tmp_path, told(strategies=("bn_scale", "l1"), amounts=(0.3, 0.97), floor=0.5, seeds=1)
    )
    failed = {(one.strategy, one.amount): one.failure for one in results.failures}
    assert "no cut within the floors meets params" in failed["l1", 0.97]
    assert all(row["accuracy"] is None for row in results.rows if row["failure"])
    assert "l1-97-seed0: " in str(results)
    page = (tmp_path / "compare.html").read_text()
    assert "What could not be done" in page
    assert "no cut within the floors" in page


def test_other_pruners_compete_under_the_same_conditions(tmp_path):
    def halves(learner, job, comparison):
        network = learner.trace()
        gone = {g.name: np.arange(len(g) // 2) for g in network.groups}
        learner.apply(network.cut(gone), network)
        return learner

    def refuses(learner, job, comparison):
        raise BudgetError("not today")

    chosen = told(strategies=("halves", "refuses"), amounts=(0.5,), seeds=1)
    results = carried_out(tmp_path, chosen, pruners={"halves": halves, "refuses": refuses})
    assert results.outcomes[0].channels < results.denses[0].channels
    assert results.outcomes[1].failure == "not today"


def test_processes_side_by_side_come_to_the_same(found, tmp_path):
    comparison = told(seeds=1, amounts=(0.3,))
    results = run_comparison(comparison, tmp_path, ProcessExecutor(2))
    expected = [o for o in found[0].outcomes if o.seed == 0 and o.amount == 0.3]
    assert numbers(results.outcomes) == numbers(expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_ray_cluster_comes_to_the_same(found, tmp_path):
    comparison = told(seeds=1, amounts=(0.3,))
    results = run_comparison(comparison, tmp_path, RayExecutor("local"))
    expected = [o for o in found[0].outcomes if o.seed == 0 and o.amount == 0.3]
    assert len(expected) == 2
    assert numbers(results.outcomes) == numbers(expected)


@pytest.mark.parametrize(
    ("strategy", "kind", "said"),
    [
        ("l3", UnknownNameError, "no criterion named 'l3'"),
        ("l1@layer", SecateursError, "expected @group or @network"),
        ("nowhere:f", UnknownNameError, "'nowhere' is neither"),
    ],
)
def test_a_strategy_that_there_is_not(strategy, kind, said, tmp_path):
    with pytest.raises(kind, match=said):
        carried_out(tmp_path / "a", told(strategies=("l1", strategy)))
    assert not (tmp_path / "a").exists()


def test_a_strategy_has_a_criterion_and_a_scope():
    assert parse_job("l1", "group") == ("l1", "group")
    assert parse_job("l1@network", "group") == ("l1", "network")
    assert parse_job("auto", "network") == ("auto", "network")
    function, scope = parse_job("numpy:ones@group", "network")
    assert (function, scope) == (np.ones, "group")


def test_settings_go_to_json_and_back(tmp_path):
    comparison = told(amounts=(0.5, 0.9), skip=("stem",))
    path = tmp_path / "comparison.json"
    path.write_text(comparison.to_json())
    assert Comparison.load(path) == comparison
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9}))
    with pytest.raises(StudyError, match="expected version 1 of a comparison; received version 9"):
        Comparison.load(path)


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StudyError, match="holds something else"):
        carried_out(tmp_path)
    with pytest.raises(StudyError, match=r"there is no comparison.json"):
        ResultStore.open(tmp_path)


def test_results_of_nothing_are_empty_tables():
    nothing = Results(told(), [], [])
    assert nothing.to_csv() == ""
    assert nothing.summary == []


def own_norm(facts):
    return sum(np.abs(rows).sum(axis=1) for rows in facts.filters)


def test_models_and_data_of_ones_own_are_compared(found, tmp_path):
    results, directory = found
    train, validation, test = splits()
    model = dense_model(directory)
    compared = sec.compare(
        model,
        train,
        validation,
        test,
        strategies=("l1", own_norm, "own_norm@network"),
        amounts=(0.6,),
        seeds=1,
        training=Training(fine_tune_batches=3, batch_size=32, learning_rate=0.02),
        directory=tmp_path / "own",
    )
    expected = next(o for o in results.outcomes if o.job.name == "l1-60-seed0")
    by_name_, own, across = compared.outcomes
    assert by_name_.accuracy == expected.accuracy
    assert (own.params, own.before, own.accuracy) == (
        by_name_.params,
        by_name_.before,
        by_name_.accuracy,
    )
    network = sec.trace(model, train.batch(slice(0, 1))[0])
    cut = sec.plan(network, sec.score(network, "l1"), sec.Budget(params=0.4), scope="network")
    assert across.params == network.cost(cut).params
    assert (tmp_path / "own" / "compare.html").exists()
    with pytest.raises(StudyError, match="another comparison"):
        sec.compare(
            models.build("vanilla_cnn", width=5, classes=10, in_channels=1, size=8),
            train,
            validation,
            directory=tmp_path / "own",
        )


def test_each_seed_may_have_a_model_of_its_own(tmp_path):
    train, validation, _ = splits()
    seeds = []

    def make(seed):
        seeds.append(seed)
        torch.manual_seed(seed)
        return models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)

    results = sec.compare(
        make,
        train,
        validation,
        strategies=("random",),
        amounts=(0.3,),
        seeds=2,
        training=Training(batches=2, fine_tune_batches=1, batch_size=32),
        directory=tmp_path,
    )
    assert set(seeds) == {0, 1}
    assert results.denses[0].norms != results.denses[1].norms
