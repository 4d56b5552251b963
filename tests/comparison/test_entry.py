import keras
import numpy as np
import pytest
import torch

import secateurs as sec
from comparison.conftest import compare, settings_of
from secateurs import data, models
from secateurs.comparison import ResultStore
from secateurs.errors import SecateursError, StudyError, UnknownNameError
from secateurs.settings.training import Training


def splits():
    loaded = data.load("digits", limit=200, seed=0)
    return loaded.train, loaded.validation, loaded.test


def dense_model(directory, seed=0):
    model = models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)
    return sec.load(model, directory / "dense" / f"seed-{seed}.safetensors").eval()


@pytest.mark.parametrize(
    ("strategy", "kind", "message"),
    [
        ("l3", UnknownNameError, "no criterion named 'l3'"),
        ("l1@layer", SecateursError, "expected @group or @network"),
        ("nowhere:f", UnknownNameError, "'nowhere' is neither"),
    ],
)
def test_an_unknown_strategy_is_refused(strategy, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        compare(tmp_path / "a", settings_of(strategies=("l1", strategy)))
    assert not (tmp_path / "a").exists()


def own_norm(facts):
    return sum(np.abs(rows).sum(axis=1) for rows in facts.filters)


def test_users_models_and_data_are_compared(comparison_run, tmp_path):
    results, directory = comparison_run
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
    by_name_, by_function, across = compared.outcomes
    assert by_name_.accuracy == expected.accuracy
    assert (by_function.params, by_function.before, by_function.accuracy) == (
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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_keras_models_are_trained_as_they_are_compiled(tmp_path):
    """One step of Adam at its own rate, by hand, from the model's weights."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    random = np.random.default_rng(0)
    inputs, labels = random.standard_normal((64, 6)).astype("float32"), random.integers(0, 3, 64)
    results = sec.compare(
        model,
        (inputs, labels),
        (inputs, labels),
        strategies=("l1",),
        amounts=(0.3,),
        seeds=1,
        training=Training(batches=1, fine_tune_batches=1, batch_size=64),
        directory=tmp_path,
    )
    settings = ResultStore.open(tmp_path).comparison.training
    assert (settings.optimizer, settings.learning_rate) == ("compiled", pytest.approx(0.02))
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    twin.compile(keras.optimizers.Adam(0.02), loss)
    twin.train_on_batch(inputs, labels)
    assert results.denses[0].loss == pytest.approx(
        float(twin.evaluate(inputs, labels, verbose=0)), rel=1e-4
    )


def test_a_criterion_that_raises_is_told_before_a_model_is_trained(tmp_path, monkeypatch):
    def raises(facts):
        raise ValueError("not yet")

    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    data = torch.randn(32, 4), torch.arange(32) % 2
    trained = []
    monkeypatch.setattr(sec.pytorch.Learner, "train", lambda *_: trained.append(1))
    with pytest.raises(sec.SecateursError, match=r"raises: .*ValueError: not yet"):
        sec.compare(model, data, data, strategies=["l1", raises], directory=tmp_path / "c")
    assert not trained
