import torch
from torch import nn

from secateurs.pytorch.model.tensors import list_tensors


def test_every_tensor_comes_once_with_all_its_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
            self.head.weight = self.words.weight
            self.norm = nn.BatchNorm1d(4)

    found = {leaf.name: leaf for leaf in list_tensors(Tied())}
    assert found["words.weight"].aliases == ["head.weight"]
    assert "head.weight" not in found
    assert {name for name, leaf in found.items() if not leaf.is_parameter} >= {
        "norm.running_mean",
        "norm.running_var",
    }
    assert found["head.bias"].layer == "head"


def test_numbers_of_steps_carry_no_channels():
    found = {leaf.name: leaf for leaf in list_tensors(nn.BatchNorm1d(4))}
    assert found["weight"].can_carry_channels
    assert not found["num_batches_tracked"].can_carry_channels
    assert found["running_mean"].tensor.dtype == torch.float32
