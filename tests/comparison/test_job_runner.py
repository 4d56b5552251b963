"""One job: a dense model, a strategy, a share, a seed."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import secateurs as sec
from comparison.conftest import compare, settings_of
from secateurs import data, models
from secateurs.errors import BudgetError
from secateurs.training.feed import ALL, ArrayFeed
from secateurs.training.schedules import learning_rates


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


def test_a_job_is_what_the_public_calls_and_a_plain_loop_make_of_it(comparison_run):
    results, directory = comparison_run
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


def test_the_share_removed_is_the_one_asked_for(comparison_run):
    results, _ = comparison_run
    assert len(results.outcomes) == 2 * 2 * 2
    for row in results.rows:
        assert row["amount"] <= row["params_removed"] < row["amount"] + 0.06
        assert row["max_difference"] < 1e-4


def test_failures_are_part_of_the_result(tmp_path):
    results = compare(
        tmp_path,
        settings_of(strategies=("bn_scale", "l1"), amounts=(0.3, 0.97), floor=0.5, seeds=1),
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

    chosen = settings_of(strategies=("halves", "refuses"), amounts=(0.5,), seeds=1)
    results = compare(tmp_path, chosen, pruners={"halves": halves, "refuses": refuses})
    assert results.outcomes[0].channels < results.denses[0].channels
    assert results.outcomes[1].failure == "not today"
