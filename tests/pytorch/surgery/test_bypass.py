import copy

import pytest
import torch
from torch import nn

from secateurs.channels.blocks import BlockCut
from secateurs.errors import CutError
from secateurs.pytorch.surgery.bypass import remove_blocks_


class Block(nn.Module):
    def __init__(self, place):
        super().__init__()
        self.branch, self.skip = nn.Linear(4, 4), nn.Linear(4, 4)
        self.layer_idx = place

    def forward(self, x, scale=1.0):
        return torch.relu(scale * self.branch(x) + self.skip(x))


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(place) for place in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


X = torch.randn(2, 4)


def test_layers_on_the_skip_keep_their_names():
    model = Stack()
    small = copy.deepcopy(model)
    remove_blocks_(small, [BlockCut("blocks.1", keeps=("skip",), after="relu")])
    assert "blocks.1.skip.weight" in small.state_dict()
    assert "blocks.1.branch.weight" not in small.state_dict()
    first, second, third = model.blocks
    assert torch.equal(small(X), third(torch.relu(second.skip(first(X)))))


def test_a_list_that_gets_shorter_is_numbered_anew():
    model = Stack()
    small = copy.deepcopy(model)
    remove_blocks_(small, [BlockCut("blocks.0", shortens=True)])
    assert [block.layer_idx for block in small.blocks] == [0, 1]
    assert torch.equal(small(X), model.blocks[2](model.blocks[1](X)))


@pytest.mark.parametrize(
    "cut",
    [
        BlockCut("blocks.7"),
        BlockCut("blocks.1", keeps=("projection",)),
        BlockCut("blocks.1", after="sine"),
    ],
)
def test_a_cut_of_another_model_is_refused(cut):
    with pytest.raises(CutError, match=r"blocks\.\d: expected"):
        remove_blocks_(Stack(), [cut])
