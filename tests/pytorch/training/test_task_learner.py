"""Any task in the loop: its metric, recomputed by hand from the resulting model."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before torchmetrics and transformers
from support.regression import ONE_ROUND, by_hand, network, values, values_of


def test_regression_is_told_by_its_mean_squared_error():
    train, validation = values(), values(32, 1)
    result = sec.iterate(network(), train, validation, task="regression", **ONE_ROUND)
    x, y = validation
    error = float(np.mean((by_hand(result.model, x) - y) ** 2))
    assert min(values_of(result)[1:]) == pytest.approx(error, rel=1e-5)
    assert result.cut  # a metric below -1 is still better than none
    dense = float(np.mean((by_hand(network(), x) - y) ** 2))
    assert values_of(result)[0] == pytest.approx(dense, rel=1e-5)


def test_a_users_loss_and_metric_on_dictionaries():
    x, y = values()
    batches = [{"a": torch.tensor(x[i : i + 8]), "targets": torch.tensor(y[i : i + 8])}
               for i in range(0, 48, 8)]  # fmt: skip

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, a):
            return {"out": self.body(a)}

    def loss(outputs, targets):
        return (outputs["out"] - targets).abs().mean(1)

    def closeness(outputs, targets):
        return ((outputs["out"] - targets).abs() < 1).float()

    result = sec.iterate(
        Named(), batches, batches, loss=loss, metric=closeness, criterion="taylor", **ONE_ROUND
    )
    expected = np.mean(np.abs(by_hand(result.model.body, x) - y) < 1)
    assert max(values_of(result)[1:]) == pytest.approx(expected, abs=1e-6)


def test_a_users_step_and_evaluation():
    x, y = values()
    pairs = [(torch.tensor(x[i : i + 8]), torch.tensor(y[i : i + 8])) for i in range(0, 48, 8)]
    steps = []

    def train_step(model, batch):
        steps.append(len(batch[0]))
        return F.smooth_l1_loss(model(batch[0]), batch[1])

    def evaluate(model):
        assert not model.training
        return -float(F.l1_loss(model(torch.tensor(x)), torch.tensor(y)))

    result = sec.iterate(
        network(), pairs, pairs, train_step=train_step, evaluate=evaluate, **ONE_ROUND
    )
    assert steps == [8] * 6
    expected = -np.mean(np.abs(by_hand(result.model, x) - y))
    assert max(values_of(result)[1:]) == pytest.approx(expected, rel=1e-5)


def test_a_users_trainer():
    train = values()
    asked = []

    def fit(model, steps):
        asked.append(steps)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        x, y = map(torch.tensor, train)
        for _ in range(steps):
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss

    task = sec.LearningTask(
        "mine", loss=lambda o, t: (o - t).square().mean(1), metric="mae", fit=fit
    )
    result = sec.iterate(network(), train, train, task=task, **ONE_ROUND)
    assert asked == [6]
    expected = np.mean(np.abs(by_hand(result.model, train[0]) - train[1]))
    assert min(values_of(result)[1:]) == pytest.approx(expected, rel=1e-5)


def test_a_lightning_trainer_trains_the_rounds():
    lightning = pytest.importorskip("lightning")
    x, y = map(torch.tensor, values())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8)

    class Module(lightning.LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def training_step(self, batch, number):
            return F.mse_loss(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.01)

    def fit(model, steps):
        trainer = lightning.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Module(model), loader)

    task = sec.LearningTask("mine", loss=lambda o, t: (o - t).square().mean(1), fit=fit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        result = sec.iterate(network(), (x, y), (x, y), task=task, **ONE_ROUND)
    error = float(np.mean((by_hand(result.model, x.numpy()) - y.numpy()) ** 2))
    assert min(values_of(result)[1:]) == pytest.approx(error, rel=1e-5)
    after_cut = next(r["value"] for r in result.history if r["kind"] == "prune")
    assert error < after_cut


def test_a_transformers_trainer_trains_the_rounds(tmp_path):
    transformers = pytest.importorskip("transformers")
    x, y = map(torch.tensor, values())

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x, labels=None):
            out = self.body(x)
            return {"out": out} if labels is None else {"loss": F.mse_loss(out, labels), "out": out}

    rows = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    asked = []

    def fit(model, steps):
        asked.append(steps)
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=steps, learning_rate=0.01, report_to=[], use_cpu=True,
            save_strategy="no", disable_tqdm=True, per_device_train_batch_size=8,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transformers.Trainer(model, arguments, train_dataset=rows).train()

    task = sec.LearningTask(
        "mine", loss=lambda o, t: (o["out"] - t).square().mean(1), fit=fit, metric_name="MSE"
    )
    data = {"x": x, "labels": y}
    result = sec.iterate(Named(), data, data, task=task, **ONE_ROUND)
    assert asked == [6]
    error = float(np.mean((by_hand(result.model.body, x.numpy()) - y.numpy()) ** 2))
    assert min(values_of(result)[1:]) == pytest.approx(error, rel=1e-5)
    after_cut = next(r["value"] for r in result.history if r["kind"] == "prune")
    assert error < after_cut
    assert result.history[0]["metric"]["name"] == "MSE"


def test_a_loop_on_accelerate_trains_the_rounds():
    accelerate = pytest.importorskip("accelerate")
    x, y = map(torch.tensor, values())

    def fit(model, steps):
        accelerator = accelerate.Accelerator(cpu=True)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        for (images, targets), _ in zip(loader, range(steps), strict=False):
            loss = F.mse_loss(prepared(images), targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return loss

    task = sec.LearningTask("mine", loss=lambda o, t: (o - t).square().mean(1), fit=fit)
    result = sec.iterate(network(), (x, y), (x, y), task=task, **ONE_ROUND)
    error = float(np.mean((by_hand(result.model, x.numpy()) - y.numpy()) ** 2))
    assert min(values_of(result)[1:]) == pytest.approx(error, rel=1e-5)
    after_cut = next(r["value"] for r in result.history if r["kind"] == "prune")
    assert error < after_cut


def test_language_modelling_with_a_transformers_model():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=16, n_layer=1, n_head=2, use_cache=False
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.tensor(np.random.default_rng(0).integers(0, 20, (16, 8)))
    batches = [
        transformers.BatchEncoding({"input_ids": rows, "labels": rows}) for rows in tokens.split(4)
    ]
    result = sec.iterate(model, batches, batches, task="language-modelling", **ONE_ROUND)
    with torch.no_grad():
        logits = result.model.eval()(input_ids=tokens).logits.double().log_softmax(-1).numpy()
    picked = np.take_along_axis(logits[:, :-1], tokens.numpy()[:, 1:, None], 2)
    assert min(values_of(result)[1:]) == pytest.approx(np.exp(-picked.mean()), rel=1e-4)
    assert result.cut.removed_channels > 0


def test_tokens_alone_are_learned_from_and_ranked_by_as_with_labels():
    class Speaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.inner = nn.Embedding(9, 8), nn.Linear(8, 12)
            self.out = nn.Linear(12, 9)

        def forward(self, input_ids):
            return self.out(torch.relu(self.inner(self.embed(input_ids))))

    tokens = torch.tensor(np.random.default_rng(0).integers(0, 9, (16, 6)))
    bare = [{"input_ids": rows} for rows in tokens.split(4)]
    arguments = [{"input_ids": rows, "labels": rows} for rows in tokens.split(4)]
    pairs = [(rows, rows) for rows in tokens.split(4)]
    found = []
    for batches in (bare, arguments, pairs):
        torch.manual_seed(0)
        given = {**ONE_ROUND, "criterion": "taylor", "task": "language-modelling"}
        found.append(sec.iterate(Speaks(), batches, batches, **given))
    for other in found[1:]:
        assert found[0].cut == other.cut
        assert values_of(found[0]) == pytest.approx(values_of(other), rel=1e-6)


class OnlyInTraining(nn.Module):
    """Gives its loss in train mode and answers in eval mode, as detectors do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(network(), nn.Dropout(0.5))

    def forward(self, x, y=None):
        given = self.body(x)
        return {"loss": F.mse_loss(given, y)} if self.training else given


@pytest.mark.parametrize("kind", [network, OnlyInTraining])
@pytest.mark.parametrize("metric", [None, "perplexity"])
def test_a_step_is_judged_by_its_loss_where_nothing_else_is_said(kind, metric):
    x, y = values()
    pairs = [(torch.tensor(x[i : i + 8]), torch.tensor(y[i : i + 8])) for i in range(0, 48, 8)]

    def train_step(model, batch):
        if kind is network:
            return F.mse_loss(model(batch[0]), batch[1])
        return model(*batch)["loss"]

    result = sec.iterate(kind(), pairs, pairs, train_step=train_step, metric=metric, **ONE_ROUND)
    body = result.model if kind is network else result.model.body
    expected = float(np.mean((by_hand(body, x) - y) ** 2))
    found = values_of(result)[1:]
    wanted = np.exp(expected) if metric else expected
    assert min(found) == pytest.approx(wanted, rel=1e-4)
