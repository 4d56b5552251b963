"""Making cuts: what is sliced, what is kept, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.channels.cut import SizeChange, TensorCut
from secateurs.pytorch.surgery.slicing import Slicer, cut_copy, slice_tensor


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Linear(6, 2)
        self.settings = {"name": "small"}

    def forward(self, x):
        return self.b(F.relu(self.norm(self.a(x))).mean((2, 3)))


def inputs():
    return torch.randn(4, 3, 8, 8)


def cut_of(model, channels):
    return sec.trace(model, inputs()).cut({"a": channels})


def test_tensors_that_lose_the_same_tuple_are_each_cut_at_their_own_length():
    gone = (1, 3)
    slicer = Slicer()
    for shape, axis in (((4, 5), 0), ((6, 4), 1), ((5,), 0), ((4, 5), 1)):
        values = torch.rand(shape)
        made = slicer.slice(values, TensorCut(shape, {axis: gone}))
        assert np.array_equal(made.numpy(), np.delete(values.numpy(), gone, axis))
    for count in range(1, 50):  # tuples that come and go: one's id may be another's
        values = torch.rand(60)
        made = slicer.slice(values, TensorCut((60,), {0: tuple(range(count))}))
        assert torch.equal(made, values[count:])


def test_a_copy_of_a_cut_model_shares_what_is_known_of_the_cut():
    small = sec.apply(Small(), cut_of(Small(), [1]), inputs(), proof=False)
    assert sec.report_of(copy.deepcopy(small)) is sec.report_of(small)


def test_the_right_rows_and_columns_stay():
    model = Small()
    small = sec.apply(model, cut_of(model, [0, 4]), inputs())
    kept = [1, 2, 3, 5]
    assert torch.equal(small.a.weight, model.a.weight[kept])
    assert torch.equal(small.a.bias, model.a.bias[kept])
    assert torch.equal(small.norm.running_var, model.norm.running_var[kept])
    assert torch.equal(small.b.weight, model.b.weight[:, kept])
    assert torch.equal(small.b.bias, model.b.bias)


def test_the_model_and_the_copy_share_nothing():
    model = Small()
    small = sec.apply(model, cut_of(model, [0]), inputs())
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for tensor in (*small.parameters(), *small.buffers()):
            tensor.add_(1)
    small.settings["name"] = "other"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.settings == {"name": "small"}


@pytest.mark.parametrize(
    "kept", [[0, 1, 2, 3, 8, 9, 10, 11], [1, 5, 6], list(range(4, 12)), [0, 1, 3, 4, 6, 7]]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_slicing_by_blocks_is_slicing(kept, axis):
    tensor = torch.randn(12, 12)
    removed = tuple(index for index in range(12) if index not in kept)
    expected = tensor[kept] if axis == 0 else tensor[:, kept]
    received = slice_tensor(tensor, TensorCut((12, 12), {axis: removed}))
    assert torch.equal(received, expected)


def test_memory_layout_flags_and_modes_are_kept():
    model = Small().to(memory_format=torch.channels_last)
    model.a.weight.requires_grad_(False)
    model.norm.eval()
    small = sec.apply(model, cut_of(model, [0]), inputs())
    assert small.a.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.a.weight.requires_grad
    assert small.b.weight.requires_grad
    assert (small.training, small.norm.training) == (True, False)


def test_hooks_are_kept():
    model = Small()
    seen = []
    model.a.register_forward_hook(lambda module, _, output: seen.append(output.shape[1]))
    small = sec.apply(model, cut_of(model, [0]), inputs())
    seen.clear()
    small(inputs())
    assert seen == [5]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    ],
    ids=["sgd", "adamw", "rmsprop"],
)
def test_training_goes_on_as_if_the_channels_had_never_mattered(make):
    """Channels that are exactly dead: cutting them must not change a single later step."""
    model = Small()
    with torch.no_grad():
        for channel in (1, 3):
            model.a.weight[channel] = 0
            model.a.bias[channel] = 0
            model.norm.weight[channel] = 0
            model.norm.bias[channel] = 0
            model.b.weight[:, channel] = 0
    optimizer = make(model.parameters())
    batches = [(inputs(), torch.randint(0, 2, (4,))) for _ in range(6)]

    def train(net, opt, data):
        net.train()
        for x, y in data:
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            if net is model:  # keep them dead, as the cut would
                for p in (net.a.weight, net.a.bias, net.norm.weight, net.norm.bias):
                    p.grad[[1, 3]] = 0
                net.b.weight.grad[:, [1, 3]] = 0
            opt.step()

    train(model, optimizer, batches[:3])
    cut = cut_of(model, [1, 3])
    small, carried = sec.apply(model, cut, inputs(), optimizer=optimizer)
    assert type(carried) is type(optimizer)
    train(model, optimizer, batches[3:])
    train(small, carried, batches[3:])
    kept = [0, 2, 4, 5]
    assert torch.allclose(small.a.weight, model.a.weight[kept], atol=1e-6)
    assert torch.allclose(small.b.weight, model.b.weight[:, kept], atol=1e-6)


def test_momentum_is_sliced_with_its_weight():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(model(inputs()), torch.zeros(4, dtype=torch.long)).backward()
    optimizer.step()
    expected = optimizer.state[model.b.weight]["momentum_buffer"][:, [1, 2, 4, 5]]
    small, carried = sec.apply(model, cut_of(model, [0, 3]), inputs(), optimizer=optimizer)
    assert torch.equal(carried.state[small.b.weight]["momentum_buffer"], expected)
    assert carried.param_groups[0]["momentum"] == 0.9
    assert [id(p) for p in carried.param_groups[0]["params"]] == [id(p) for p in small.parameters()]


def test_state_that_cannot_be_sliced_is_reset():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.a.weight]["rows"] = torch.randn(6)
    optimizer.state[model.b.bias]["rows"] = torch.randn(7)
    small, carried = sec.apply(model, cut_of(model, [0]), inputs(), optimizer=optimizer)
    assert small.a.weight not in carried.state
    assert carried.state[small.b.bias]["rows"].shape == (7,)


def test_an_optimizer_of_another_model_is_refused():
    model = Small()
    other = torch.optim.SGD(Small().parameters(), lr=0.1)
    with pytest.raises(sec.CutError, match="optimizer of this model's parameters"):
        sec.apply(model, cut_of(model, [0]), inputs(), optimizer=other)


def test_a_cut_for_another_model_is_refused_by_name():
    model = Small()
    cut = cut_of(model, [0])
    model.a = nn.Conv2d(3, 8, 3, padding=1)
    with pytest.raises(sec.CutError, match=r"a\.weight: expected shape \(6, 3, 3, 3\)"):
        sec.apply(model, cut, inputs())
    with pytest.raises(sec.CutError, match=r"a\.weight: expected a tensor"):
        sec.apply(nn.Linear(2, 2), cut, inputs())


def test_a_layer_of_another_size_is_refused_by_name():
    model = Small()
    cut = cut_of(model, [0])
    broken = sec.Cut(cut.tensors, (SizeChange("a", "out_channels", None, 9, 8),))
    with pytest.raises(sec.CutError, match=r"a\.out_channels: expected a whole number of 9"):
        cut_copy(model, broken)


def test_deleting_channels_by_hand_follows_couplings():
    model = Small()
    small = sec.delete_channels(model, {"a": [0, 4]}, inputs())
    assert (small.a.out_channels, small.norm.num_features, small.b.in_features) == (4, 4, 4)
    assert sec.report_of(small).max_difference < 1e-5
    through_norm = sec.delete_channels(model, {"norm": [0, 4]}, inputs())
    assert torch.equal(through_norm.a.weight, small.a.weight)


@pytest.mark.parametrize(
    ("layer", "indices", "message"),
    [
        ("a", [6], "a: expected indices of 0 to 5; received 6"),
        ("a", [-1], "a: expected indices of 0 to 5; received -1"),
        ("a", [2, 2], "a: expected each index once; received 2 twice"),
        ("a", range(6), "a: expected a cut that leaves at least one channel; received all 6"),
        ("b", [0], "b: filter 0 cannot be removed: it is the network's output"),
    ],
)
def test_undeletable_filters_are_refused_with_the_layers_name(layer, indices, message):
    with pytest.raises(sec.CutError) as caught:
        sec.delete_channels(Small(), {layer: indices}, inputs())
    assert message in str(caught.value)


def test_an_unknown_layer_is_refused_with_the_nearest_name():
    with pytest.raises(sec.UnknownNameError, match="did you mean 'norm'"):
        sec.delete_channels(Small(), {"norms": [0]}, inputs())


def test_part_of_a_convolution_group_is_refused_with_what_can_go():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.Conv2d(8, 2, 1)
    )
    with pytest.raises(sec.CutError, match="smallest removable sets"):
        sec.delete_channels(model, {"0": [0]}, inputs())
    pair = sec.delete_channels(model, {"0": [0, 1]}, inputs())
    assert pair[1].groups == 3
    columns = sec.delete_channels(model, {"0": [0, 2, 4, 6]}, inputs())
    assert (columns[1].groups, columns[1].weight.shape[1]) == (4, 1)


def test_cutting_a_cut_model_adds_up():
    model = Small()
    first = sec.apply(model, cut_of(model, [0, 4]), inputs())
    second = sec.apply(first, cut_of(first, [1]), inputs())
    assert sec.report_of(second).cut.channels["a"].removed == (0, 2, 4)
    assert sec.report_of(second).cut.before.params == sum(p.numel() for p in model.parameters())
    assert torch.equal(second.a.weight, model.a.weight[[1, 3, 5]])


def test_an_optimizer_whose_state_is_of_all_parameters_at_once_is_refused():
    model = Small()
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(sec.CutError, match=r"received LBFGS, which keeps all of them in _params"):
        sec.apply(model, cut_of(model, [0, 3]), inputs(), optimizer=optimizer)


def test_a_cut_made_in_inference_mode_can_be_trained():
    model = Small().eval()
    with torch.inference_mode():
        small = sec.apply(model, cut_of(model, [0, 3]), inputs())
    small(inputs()).sum().backward()
    assert all(p.grad is not None and not p.is_inference() for p in small.parameters())
