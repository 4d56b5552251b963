"""The moving average of a model's weights, against PyTorch's own."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from secateurs.pytorch.training.averaging import update_average, values_put


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


def test_it_is_that_of_an_averaged_model():
    trained = model()
    theirs = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    optimizer = torch.optim.SGD(trained.parameters(), 0.1)
    average = {}
    for _ in range(5):
        trained(torch.randn(6, 1, 5, 5)).square().mean().backward()
        optimizer.step()
        theirs.update_parameters(trained)
        average = update_average(average, trained, 0.8)
    expected = theirs.module.state_dict()
    assert average.keys() == expected.keys()
    for name, value in average.items():
        if value.is_floating_point():
            assert torch.equal(value, expected[name])
    assert not torch.equal(average["0.weight"], trained[0].weight)
    assert int(average["1.num_batches_tracked"]) == 5


def test_without_a_decay_there_is_none():
    assert update_average({}, model(), 0.0) == {}


def test_values_are_put_and_taken_back_whatever_happens():
    trained = model()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    values = {"0.weight": torch.full((4, 1, 3, 3), 7.0)}
    try:
        with values_put(trained, values):
            assert (trained[0].weight == 7).all()
            assert torch.equal(trained[0].bias, before["0.bias"])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name])
