"""Training through Accelerate in one and several processes, and what survives a cut."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateurs as sec
from secateurs import models
from secateurs.pytorch import Learner
from secateurs.pytorch.saving import read
from secateurs.pytorch.training.processes import Processes
from secateurs.pytorch.training.task_learner import TaskLearner
from secateurs.study.directory import Study
from secateurs.training.feed import ArrayFeed, ArrayPair, consecutive
from secateurs.training.task import LearningTask
from support import killed, processes
from support.launched import run_in_two_processes

TESTS = Path(__file__).parents[2]


def nothing():
    pass


def cnn():
    torch.manual_seed(0)
    return models.vanilla_cnn(3, in_channels=1, size=8, widths=(6, 8), hidden=10)


def learner(model=None, train=None, **training):
    settings = sec.Training(**{"batch_size": 16, "learning_rate": 0.05} | training)
    train = killed.examples(80, 1) if train is None else train
    data = train, killed.examples(30, 2), None
    return Learner(model or cnn(), *data, settings)


def test_two_processes_end_with_the_weights_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Study, "report", lambda self: None)
    (tmp_path / "single").mkdir()
    single = processes.study(tmp_path / "single" / "study")
    run_in_two_processes("processes", tmp_path, 150)
    one, one_cut = read(tmp_path / "process-0-of-2")
    other, other_cut = read(tmp_path / "process-1-of-2")
    assert one_cut == other_cut == single.cut
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name, tensor in single.model.state_dict().items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-4, atol=1e-5)
    history = sec.History.load(tmp_path / "study" / "history.jsonl")
    assert [record["kind"] for record in history] == [r["kind"] for r in single.history]
    for column in ("batch", "accuracy", "params"):
        assert history[:, column] == single.history[:, column]
    losses = history[:, "validation_loss"]
    assert losses == pytest.approx(single.history[:, "validation_loss"], rel=1e-4)
    assert history[-1, "test_accuracy"] == single.history[-1, "test_accuracy"]


def test_it_trains_as_plain_pytorch_does():
    mine, (images, labels) = learner(momentum=0.9, weight_decay=1e-3), killed.examples(80, 1)
    rates = [0.05, 0.04, 0.03, 0.02, 0.01, 0.03, 0.02]
    loss = mine.train(0, rates, nothing)
    plain, losses = cnn(), []
    optimizer = torch.optim.SGD(
        plain.parameters(), 0.1, momentum=0.9, weight_decay=1e-3, nesterov=True
    )
    feed = ArrayFeed(ArrayPair(images, labels), 16)
    for batch, rate in zip(consecutive(feed, 0, 7), rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        scores = plain(torch.from_numpy(batch.images))
        value = nn.functional.cross_entropy(scores, torch.from_numpy(batch.labels))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    for received, expected in zip(mine.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(received, expected, rtol=1e-4, atol=1e-6)


def test_it_evaluates_as_plain_pytorch_does():
    mine = learner()
    ticks = []
    found = mine.evaluate("validation", lambda: ticks.append(1))
    images, labels = map(torch.from_numpy, killed.examples(30, 2))
    with torch.no_grad():
        scores = cnn().eval()(images)
    assert found.accuracy == (scores.argmax(1) == labels).sum().item() / 30
    assert found.loss == pytest.approx(nn.functional.cross_entropy(scores, labels).item())
    assert len(ticks) == mine.batches_of("validation") == 1
    assert not mine.has_test


def test_dropout_depends_on_the_seed_and_the_batch_alone():
    def train_on(draws, seed=0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(), nn.Linear(8, 3))
        mine = learner(model, seed=seed)
        torch.rand(draws)
        before = torch.get_rng_state()
        mine.train(3, [0.1] * 4, nothing)
        assert torch.equal(torch.get_rng_state(), before)
        return mine.model[3].weight

    assert torch.equal(train_on(0), train_on(100))
    assert not torch.equal(train_on(0), train_on(0, seed=1))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_snapshot_brings_everything_back(optimizer):
    mine = learner(optimizer=optimizer)
    mine.train(0, [0.01] * 3, nothing)
    snapshot = mine.snapshot()
    content = mine.pack(snapshot.tensors, {"a": "b"})
    assert mine.unpack(content)[1]["a"] == "b"
    mine.train(3, [0.01] * 5, nothing)
    expected = [p.detach().clone() for p in mine.model.parameters()]
    mine.restore(snapshot)
    mine.train(3, [0.01] * 5, nothing)
    for parameter, wanted in zip(mine.model.parameters(), expected, strict=True):
        assert torch.equal(parameter, wanted)


def test_momentum_is_sliced_along_and_training_goes_on():
    mine = learner()
    mine.train(0, [0.05] * 5, nothing)
    before = mine.snapshot()
    network = mine.trace()
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.3)
    report = mine.apply(cut, network)
    assert report.proof is not None
    assert report.proof.holds
    after = mine.snapshot()
    names = [name for name, _ in cnn().named_parameters()]
    for number, name in enumerate(names):
        old, new = (s.optimizer[f"{number}.momentum_buffer"] for s in (before, after))
        expected = old.numpy()
        removed = cut.tensors.get(name)
        for axis in removed.removed if removed else ():
            expected = np.take(expected, removed.list_kept(axis), axis)
        np.testing.assert_array_equal(new.numpy(), expected)
    assert np.isfinite(mine.train(5, [0.05] * 3, nothing))


def test_the_model_is_wrapped_in_nothing():
    mine = learner()
    mine.train(0, [0.1], nothing)
    released = mine.release()
    assert type(released) is type(cnn())
    assert vars(released).keys() == vars(cnn()).keys()


def test_frozen_parameters_stay_as_they_are():
    model = cnn()
    model.blocks[0].conv.weight.requires_grad_(False)
    mine = learner(model)
    mine.train(0, [0.1] * 3, nothing)
    first, second = (mine.model.blocks[i].conv.weight for i in (0, 1))
    assert torch.equal(first, model.blocks[0].conv.weight)
    assert not torch.equal(second, model.blocks[1].conv.weight)
    with pytest.raises(sec.ModelError, match="can be trained"):
        learner(cnn().requires_grad_(False))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_is_shuffled_by_the_seed_and_the_epoch(workers):
    images, labels = map(torch.from_numpy, killed.examples(48, 1))
    loader = DataLoader(TensorDataset(images, labels), 16, shuffle=True, num_workers=workers)

    def weights(draws, first):
        mine = learner(train=loader)
        assert mine.batches_an_epoch == 3
        torch.rand(draws)
        mine.train(first, [0.05] * 4, nothing)
        return mine.model.head.weight

    assert torch.equal(weights(0, 1), weights(100, 1))
    if not workers:
        assert not torch.equal(weights(0, 1), weights(0, 2))


def test_speed_is_measured_beside_the_dense_model():
    mine = learner()
    dense = mine.snapshot()
    network = mine.trace()
    mine.apply(sec.plan(network, sec.score(network, "l1"), amount=0.3), network)
    record = dataclasses.asdict(mine.speed(dense))
    assert record["batch_size"] == 16
    assert record["device"] == "cpu"
    assert record["threads"] == torch.get_num_threads()
    assert 0 < record["low"] <= record["ratio"] <= record["high"]
    shares = record["images_per_second"] / record["dense_images_per_second"]
    assert record["ratio"] == pytest.approx(shares, rel=0.5)


def with_nan():
    model = cnn()
    with torch.no_grad():
        model.head.bias[1] = float("nan")
    return model


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: learner(with_nan()), sec.ModelError, "head.bias holds NaN"),
        (lambda: learner(train=(np.zeros((0, 1, 8, 8)), [])), sec.DataError, "train: .* none"),
        (
            lambda: learner(train=(np.zeros((4, 1, 8, 8)), [1, 1, 1, 1])),
            sec.DataError,
            "train: .* two classes",
        ),
        (lambda: learner(train=[]), sec.DataError, "train: .* none"),
        (lambda: learner(train=5), sec.DataError, "train: expected a secateurs.data.Split"),
        (
            lambda: learner(train=iter([killed.examples(6, 1)])),
            sec.DataError,
            "iterated again",
        ),
        (lambda: learner(train=[(1, 2, 3)]), sec.DataError, "pairs"),
    ],
)
def test_what_cannot_be_trained_on_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_labels_that_the_model_has_no_output_for_are_said():
    images, labels = killed.examples(80, 1)
    with pytest.raises(sec.DataError, match="labels of 0 to 2, as the model has 3 outputs"):
        learner(train=(images, labels + 1)).train(0, [0.1], nothing)


def test_a_model_that_gives_no_scores_is_said():
    model = nn.Conv2d(1, 3, 3)
    with pytest.raises(sec.ModelError, match=r"scores of shape \(images, classes\)"):
        learner(model).train(0, [0.1], nothing)


def test_a_checkpoint_of_another_model_is_said():
    mine = learner()
    other = learner(models.vanilla_cnn(3, in_channels=1, size=8, widths=(6, 9), hidden=10))
    with pytest.raises(sec.CheckpointError, match="size mismatch for"):
        mine.restore(other.snapshot())


@pytest.mark.parametrize("steps", [2, 3, 99])
def test_parts_of_a_batch_add_up_to_its_gradients(steps):
    """A model without batch normalisation ends where it ends with whole batches."""
    whole, parts = learner(), learner(accumulation_steps=steps)
    losses = [one.train(0, [0.05] * 6, nothing) for one in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    expected = whole.release().state_dict()
    start = cnn().state_dict()
    for name, tensor in parts.release().state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
        assert not torch.equal(tensor, start[name])


def test_parts_of_a_tasks_batch_add_up_too():
    """Two inputs in a dictionary, and targets: all are taken apart alike."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, a, b):
            return self.other(self.one(a).relu()) * b

    def rows(seed):
        random = torch.Generator().manual_seed(seed)
        a, b, y = (torch.randn(10, width, generator=random) for width in (3, 1, 1))
        return {"a": a, "b": b}, y

    found = []
    for steps in (1, 4):
        torch.manual_seed(0)
        settings = sec.Training(learning_rate=0.05, accumulation_steps=steps)
        task = LearningTask(loss=lambda out, y: (out - y).square())
        one = TaskLearner(Two(), [rows(0), rows(1)], [rows(2)], None, settings, task)
        found.append((one.train(0, [0.05] * 4, nothing), one.release().state_dict()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for name, tensor in found[1][1].items():
        torch.testing.assert_close(tensor, found[0][1][name], rtol=1e-4, atol=1e-6)


def test_a_study_inside_no_grad_is_trained_and_inside_inference_mode_refused():
    data = killed.examples(40, 1)
    options = {"training": sec.Training(batches=2, fine_tune_batches=2, batch_size=8)}
    options |= {"stop": sec.Stop(rounds=1, tolerance=None), "step": 0.3, "measure_speed": False}
    expected = sec.iterate(cnn(), data, data, **options).model.state_dict()
    with torch.no_grad():
        received = sec.iterate(cnn(), data, data, **options).model.state_dict()
    assert all(torch.equal(received[name], tensor) for name, tensor in expected.items())
    with torch.inference_mode(), pytest.raises(sec.ModelError, match=r"inference_mode\(\)\. Call"):
        sec.iterate(cnn(), data, data, **options)


def test_processes_average_the_same_buffers_whatever_the_order_in_a_checkpoint(monkeypatch):
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
        *(nn.Flatten(), nn.LazyLinear(3)),
    )
    model(torch.zeros(2, 1, 8, 8))
    mine = learner(model, ema=0.5)
    mine.train(0, [0.01], nothing)
    present = mine.snapshot()
    backwards = dict(reversed(present.average.items()))
    mine.restore(dataclasses.replace(present, average=backwards))
    sent = []
    monkeypatch.setattr(Processes, "average_", lambda self, buffers: sent.append(list(buffers)))
    mine.train(1, [0.01], nothing)
    average = mine.snapshot().average
    names = [name for name, _ in mine.model.named_buffers()]
    assert len(names) == len(sent[1]) == 6
    for name, tensor in zip(names, sent[1], strict=True):
        assert torch.equal(tensor, average[name])
