import numpy as np
import pytest
import torch
from torch import nn

from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.reconstruction import output_stream

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32") + 1
BATCHES = [CalibrationBatch(X[:4], None), CalibrationBatch(X[4:], None)]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_outputs_are_those_of_inference_and_modes_come_back():
    model = net().train()
    found = [one for (one,) in output_stream.outputs(model, BATCHES)]
    assert model.training
    expected = model.eval()(torch.from_numpy(X)).detach().numpy()
    assert np.allclose(np.concatenate(found), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_working_copy_computes_in_single_precision(kind):
    model = net().to(kind)
    copy, given = output_stream.working_copy(model, torch.from_numpy(X).to(kind))
    assert given.dtype is copy[0].weight.dtype is torch.float32
    with torch.no_grad():
        copy[0].weight.mul_(2)
        expected = 2 * model[0].weight
    output_stream.copy_weights_(copy, model)
    assert torch.equal(model[0].weight, expected)


def test_the_distance_of_images_from_the_training_data_is_measured():
    model = net().eval()
    made = model[0](torch.from_numpy(X)).detach().double().numpy()
    # As it is born, batch norm has mean 0 and variance 1.
    distance, layer = output_stream.unlike_calibration(model, BATCHES)
    expected = np.mean(np.square(made.mean(axis=0)) / (1 + model[1].eps))
    assert layer == "1"
    assert np.isclose(distance, expected, rtol=1e-5)
    assert output_stream.unlike_calibration(nn.Linear(3, 2), BATCHES) is None
