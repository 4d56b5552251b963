"""Running studies: with any kind of model, and whatever fails on the way."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.study.directory import Study
from support.scripted import Recorded, Scripted, run

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int64)


@pytest.fixture(autouse=True)
def _without_drawing(monkeypatch):
    monkeypatch.setattr(Study, "report", lambda self: None)


def mlp(dtype=torch.float32):
    torch.manual_seed(0)
    layers = nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 2)
    return nn.Sequential(*layers).to(dtype)


def iterate(model, data=(X, Y), training=(), **options):
    settings = {"fine_tune_batches": 3, "batch_size": 16, "learning_rate": 0.05} | dict(training)
    stop = sec.Stop(rounds=1, tolerance=None)
    chosen = {"step": 0.2, "stop": stop, "measure_speed": False} | options
    return sec.iterate(model, data, data, training=sec.Training(**settings), **chosen)


def forward_by_hand(dense, cut, small, inputs):
    """The answers of the dense architecture with the small model's weights put at their place."""
    weights = {}
    for name, tensor in dense.state_dict().items():
        whole = np.zeros(tensor.shape, np.float32)
        known = cut.tensors.get(name)
        places = [
            known.list_kept(axis) if known else np.arange(n) for axis, n in enumerate(whole.shape)
        ]
        whole[np.ix_(*places)] = small.state_dict()[name].numpy()
        weights[name] = whole
    hidden = np.maximum(inputs @ weights["0.weight"].T + weights["0.bias"], 0)
    hidden = np.maximum(hidden @ weights["2.weight"].T + weights["2.bias"], 0)
    return hidden @ weights["4.weight"].T + weights["4.bias"]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"rewind": "weights", "training": {"batches": 4}}, {"measure_speed": True}],
    ids=["plain", "rewound", "measured"],
)
def test_a_model_that_was_cut_before_goes_on_from_there(tmp_path, options, on_disk):
    dense = mlp()
    start = sec.prune(dense, torch.from_numpy(X), sec.Budget(params=0.6)).model
    before = sec.report_of(start).cut
    where = {"directory": tmp_path / "study"} if on_disk else {}
    result = iterate(start, **options, **where)
    assert result.model[0].out_features < start[0].out_features
    assert result.cut.before.params == sum(p.numel() for p in dense.parameters())
    for name, first in before.tensors.items():
        for axis, gone in first.removed.items():
            assert {*gone} <= {*result.cut.tensors[name].removed[axis]}
    answers = result.model(torch.from_numpy(X)).detach().numpy()
    expected = forward_by_hand(dense, result.cut, result.model, X)
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    sec.save(result.model, tmp_path / "small.safetensors")
    again = sec.load(mlp(), tmp_path / "small.safetensors")
    np.testing.assert_array_equal(again(torch.from_numpy(X)).detach().numpy(), answers)


def test_another_cut_of_the_same_shape_is_another_study(tmp_path):
    def cut(first):
        return sec.delete_channels(mlp(), {"0": [first]}, torch.from_numpy(X))

    iterate(cut(1), directory=tmp_path / "study")
    with pytest.raises(sec.StudyError, match=r"task\.model_options\.cut"):
        iterate(cut(2), directory=tmp_path / "study")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", ["tensor", "array", "loader"])
def test_models_of_other_precisions_come_back_as_they_were(dtype, given):
    images, labels = torch.from_numpy(X).to(dtype), torch.from_numpy(Y)
    data = {
        "tensor": (images, labels),
        "array": (X, Y),
        "loader": [(images[n : n + 16], labels[n : n + 16]) for n in range(0, 64, 16)],
    }[given]
    result = iterate(mlp(dtype), data, criterion="taylor", training={"learning_rate": 0.01})
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert result.model[0].out_features < 32


def test_double_models_train_in_double_precision():
    """Against PyTorch itself; a float32 on the way would be off by 1e-8."""
    images = X.astype(np.float64) * (1 + 1e-9)
    training = {"batches": 1, "fine_tune_batches": 1, "batch_size": 64}
    result = iterate(mlp(torch.float64), (images, Y), training, stop=sec.Stop(rounds=0))
    scores = mlp(torch.float64)(torch.from_numpy(images))
    loss = nn.functional.cross_entropy(scores, torch.from_numpy(Y)).item()
    assert result.history.of("train")[0, "loss"] == pytest.approx(loss, rel=1e-12)


class Interrupt(sec.Watcher):
    """Stops a study at its nth step."""

    def __init__(self, at):
        self.left = at

    def tick(self):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_interrupted_study_ends_like_an_uninterrupted_one(tmp_path, optimizer):
    rate = {"sgd": 0.05, "adamw": 0.2}[optimizer]
    training = {"batches": 12, "fine_tune_batches": 6, "evaluate_every": 3}
    training |= {"optimizer": optimizer, "learning_rate": rate}
    expected = iterate(mlp(), training=training, directory=tmp_path / "whole").model.state_dict()
    for at in (5, 8, 17, 23):
        place = tmp_path / f"{at}"
        with pytest.raises(KeyboardInterrupt):
            iterate(mlp(), training=training, directory=place, watcher=Interrupt(at))
        received = iterate(mlp(), training=training, directory=place).model.state_dict()
        for name, tensor in expected.items():
            assert torch.equal(received[name], tensor), (at, name)


def test_a_start_that_fails_leaves_no_directory(tmp_path):
    with pytest.raises(sec.DataError, match="labels of 0 to 1"):
        iterate(mlp(), (X, Y + 1), directory=tmp_path / "runs" / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_fails_later_keeps_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr("secateurs.study.round_cutter.RoundCutter.cut", _fails)
    with pytest.raises(sec.CutError):
        iterate(mlp(), directory=tmp_path / "a")
    assert (tmp_path / "a" / "checkpoint.safetensors").exists()
    monkeypatch.undo()
    monkeypatch.setattr(Study, "report", lambda self: None)
    assert iterate(mlp(), directory=tmp_path / "a").cut


def _fails(*_):
    raise sec.CutError("not today")


def test_a_report_that_cannot_be_drawn_costs_nobody_the_result(tmp_path, monkeypatch):
    def fails(study):
        raise ValueError("$ is read as\nmathematics")

    monkeypatch.setattr(Study, "report", fails)
    with pytest.warns(UserWarning, match="cannot be drawn .*secateurs report"):
        result = iterate(mlp(), directory=tmp_path / "a")
    assert result.cut


class Diverging(Scripted):
    """Its loss is no number from a round on, after so many batches of it."""

    def __init__(self, at, after=0):
        super().__init__(lambda number, batch: 0.9)
        self.at, self.after = at, after

    def train(self, first, rates, tick):
        loss = super().train(first, rates, tick)
        lost = self.latest == self.at and self.done > self.after
        return float("nan") if lost else loss


@pytest.mark.parametrize(("after", "kept"), [(0, 1), (10, 2)])
def test_a_round_that_diverges_ends_the_study_with_what_it_has(after, kept):
    position, store = run(Diverging(2, after), stop={"rounds": 5})
    stop = store.history.last("stop")
    assert "round 2: training diverged: the mean loss" in stop["reason"]
    assert "Lower the learning rate" in stop["reason"]
    assert stop["best_round"] == position.result_round == kept


def test_dense_training_that_diverges_is_an_error():
    with pytest.raises(sec.SecateursError, match="training diverged"):
        run(Diverging(0), Recorded())


def test_a_batch_too_large_for_memory_is_said_with_a_smaller_one(tmp_path):
    class Hungry(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            if len(x) > 1 and self.training:
                torch.empty(1 << 60)
            return self.inner(x)

    with pytest.raises(sec.SecateursError, match=r"batch of 16 images.*--batch-size 8") as error:
        iterate(Hungry(), directory=tmp_path / "a")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a").exists() or (tmp_path / "a" / "checkpoint.safetensors").exists()


class TwoOutputs(nn.Module):
    """Scores, and a hidden layer that nobody uses."""

    def __init__(self, by_name):
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 24)
        self.last = nn.Linear(24, 5)
        self.by_name = by_name

    def forward(self, x):
        hidden = self.first(x).relu()
        scores = self.last(self.second(hidden).relu())
        return {"logits": scores, "hidden": hidden} if self.by_name else (hidden, scores)


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize(("by_name", "outputs"), [(True, "logits"), (False, 1)])
def test_channels_of_an_unused_output_can_be_removed(by_name, outputs, repair):
    torch.manual_seed(0)
    model = TwoOutputs(by_name)
    images = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    data = images, images[:, :5].argmax(1)
    options = {
        "step": 0.4,
        "stop": sec.Stop(rounds=1, tolerance=None),
        "training": sec.Training(batches=30, fine_tune_batches=10, learning_rate=0.05),
        "measure_speed": False,
        "repair": repair,
    }
    result = sec.iterate(model, data, data, outputs=outputs, **options)
    assert result.history.of("prune")[0, "channels"] in (33, 34)  # of 56
    small = result.model
    assert small.first.out_features < 32
    found = small(torch.from_numpy(images))
    scores = found["logits"] if by_name else found[1]
    assert scores.shape == (300, 5)
    # What the history says of the model is what its used output gives.
    right = (scores.argmax(1).numpy() == data[1]).mean()
    assert result.history.last("stop")["accuracy"] == pytest.approx(right)


def test_a_task_sees_none_in_the_place_of_what_is_not_used():
    seen = []

    def loss(outputs, targets):
        seen.append(outputs[0])
        return nn.functional.cross_entropy(outputs[1], targets, reduction="none")

    images = torch.randn(80, 8)
    data = images, images[:, :5].argmax(1)
    sec.iterate(
        TwoOutputs(by_name=False),
        data,
        data,
        outputs=[1],
        loss=loss,
        stop=sec.Stop(rounds=1, tolerance=None),
        training=sec.Training(fine_tune_batches=2),
        measure_speed=False,
    )
    assert seen
    assert set(seen) == {None}
