"""Training towards the dense model's outputs, between cuts, in both frameworks."""

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from scipy.special import log_softmax, softmax
from torch import nn

import secateurs as sec
from secateurs import keras as on_keras
from secateurs import pytorch as on_pytorch
from secateurs.errors import ModelError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(24, 5)).astype("float32")
LABELS = np.arange(24) % 3


def torch_model(probabilities):
    assert not probabilities
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def keras_model(probabilities):
    plain = torch_model(False)
    last = "softmax" if probabilities else None
    model = keras.Sequential([keras.Input((5,)), L.Dense(8, "relu"), L.Dense(3, last)])
    tensors = [parameter.detach().numpy() for parameter in plain.parameters()]
    model.set_weights([tensor.T for tensor in tensors])
    return model


def scores(model):
    with torch.no_grad():
        return model(torch.from_numpy(IMAGES)).numpy()


SIDES = [
    pytest.param(on_pytorch.Learner, torch_model, False, id="pytorch"),
    pytest.param(on_keras.Learner, keras_model, False, id="keras, scores"),
    pytest.param(on_keras.Learner, keras_model, True, id="keras, probabilities"),
]


@pytest.mark.parametrize(("learner", "model", "probabilities"), SIDES)
def test_the_loss_is_of_the_labels_and_the_dense_models_outputs(learner, model, probabilities):
    training = sec.Training(batch_size=24, distillation=0.3, temperature=3.0, label_smoothing=0.1)
    one = learner(model(probabilities), (IMAGES, LABELS), (IMAGES, LABELS), None, training)
    dense = one.snapshot()
    network = one.trace()
    one.apply(network.cut({network.groups[0].name: [0, 1, 2, 3]}), network)
    one.follow(dense)
    loss = one.train(0, [1e-6], lambda: None)

    plain = torch_model(False)
    wide = scores(plain)
    with torch.no_grad():
        plain[2].weight[:, :4] = 0
    small = scores(plain)
    targets = 0.9 * np.eye(3)[LABELS] + 0.1 / 3
    of_labels = -(targets * log_softmax(small, 1)).sum(1)
    heat = softmax(wide / 3, 1)
    apart = 9 * (heat * (np.log(heat) - log_softmax(small / 3, 1))).sum(1)
    assert loss == pytest.approx((0.7 * of_labels + 0.3 * apart).mean(), rel=1e-4)


@pytest.mark.parametrize(("learner", "model", "probabilities"), SIDES)
def test_without_labels_the_small_model_comes_to_answer_as_the_dense(learner, model, probabilities):
    wrong = (LABELS + 1) % 3  # what labels would teach
    training = sec.Training(batch_size=24, distillation=1.0, learning_rate=0.1, weight_decay=0.0)
    one = learner(model(probabilities), (IMAGES, wrong), (IMAGES, LABELS), None, training)
    dense = one.snapshot()
    network = one.trace()
    one.apply(network.cut({network.groups[0].name: [0, 3]}), network)
    one.follow(dense)
    first = one.train(0, [1e-6], lambda: None)
    one.train(1, [0.1] * 60, lambda: None)
    last = one.train(61, [1e-6], lambda: None)
    assert last < 0.1 * first
    # A snapshot of the round is gone back to, and trained on, as ever.
    one.restore(one.snapshot())
    assert one.train(62, [1e-6], lambda: None) == pytest.approx(last, rel=0.1)


def test_a_compiled_loss_is_not_mixed_with_anything():
    model = keras_model(True)
    model.compile("adam", "sparse_categorical_crossentropy")
    training = sec.Training(optimizer="compiled", distillation=0.5)
    with pytest.raises(ModelError, match="distillation=0 "):
        on_keras.Learner(model, (IMAGES, LABELS), (IMAGES, LABELS), None, training)


def test_the_loop_follows_the_dense_model_as_it_was_trained(tmp_path):
    training = sec.Training(
        batches=8, batch_size=12, learning_rate=0.05, distillation=0.5, fine_tune_batches=4
    )
    options = {
        "step": 0.3,
        "training": training,
        "stop": sec.Stop(rounds=2, tolerance=None),
        "measure_speed": False,
    }
    data = (IMAGES, LABELS)
    result = sec.iterate(torch_model(False), data, data, **options)
    plain = sec.iterate(
        torch_model(False),
        data,
        data,
        **options | {"training": training.model_copy(update={"distillation": 0.0})},
    )
    rounds = [
        [r["loss"] for r in each.history if r["kind"] == "train" and r["round"] == number]
        for each in (result, plain)
        for number in (0, 1)
    ]
    assert rounds[0] == rounds[2]  # the dense model has nobody to follow
    assert rounds[1] != rounds[3]
