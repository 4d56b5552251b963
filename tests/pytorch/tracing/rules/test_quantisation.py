import pytest
import torch
from torch import nn

import secateurs as sec

GONE = [1, 4, 6]


KEPT = [0, 2, 3, 5, 7]


@pytest.mark.filterwarnings("ignore")
def test_a_model_trained_for_quantisation_is_cut_with_its_observers():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    model = nn.Sequential(*layers).train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    model = torch.ao.quantization.prepare_qat(model)
    x = torch.rand(2, 3, 8, 8)
    model(x)
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = sec.delete_channels(model, {"0": GONE}, x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for name in ("scale", "zero_point"):
        kept = getattr(model[0].weight_fake_quant, name)[KEPT]
        assert torch.equal(getattr(small[0].weight_fake_quant, name), kept)
    # By hand, without observers: the filters that stay are rounded as they were.
    for one in (model, small):
        one.apply(torch.ao.quantization.disable_observer)
    with torch.no_grad():
        assert torch.allclose(small[0](x), model[0](x)[:, KEPT], atol=1e-6)
