"""Removing whole blocks is alike in both frameworks: losses, choice and repair."""

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import secateurs as sec

BLOCKS, WIDTH, SIDE = 3, 6, 8
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(96, 3, SIDE, SIDE)).astype(np.float32)
KERNELS = {
    "stem": RANDOM.normal(size=(WIDTH, 3, 3, 3)) / 4,
    **{
        f"{n}.{part}": RANDOM.normal(size=(WIDTH, WIDTH, 3, 3)) * share
        for n, share in enumerate((0.12, 0.03, 0.08))
        for part in ("one", "two")
    },
}
HEAD = RANDOM.normal(size=(4, WIDTH)) * 2
NAMES = {"pytorch": "blocks.{}", "keras": "sum{}"}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.two = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.two(torch.relu(self.one(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def build_pytorch():
    model = Net().eval()
    with torch.no_grad():
        for name, kernel in KERNELS.items():
            path = name if name == "stem" else f"blocks.{name}"
            layer = model.get_submodule(path)
            layer.weight.copy_(torch.from_numpy(kernel))
            layer.bias.fill_(0.1)
        model.head.weight.copy_(torch.from_numpy(HEAD))
        model.head.bias.zero_()
    return model


def build_keras():
    inputs = keras.Input((SIDE, SIDE, 3))

    def convolution(name):
        return L.Conv2D(WIDTH, 3, padding="same", name=name)

    x = L.ReLU()(convolution("stem")(inputs))
    for n in range(BLOCKS):
        y = convolution(f"{n}_two")(L.ReLU()(convolution(f"{n}_one")(x)))
        x = L.ReLU()(L.Add(name=f"sum{n}")([x, y]))
    x = L.Dense(4, name="head")(L.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    for name, kernel in KERNELS.items():
        model.get_layer(name.replace(".", "_")).set_weights(
            [kernel.transpose(2, 3, 1, 0), np.full(WIDTH, 0.1)]
        )
    model.get_layer("head").set_weights([HEAD.T, np.zeros(4)])
    return model


BUILDERS = {"pytorch": build_pytorch, "keras": build_keras}


def outputs_of(side, images=IMAGES):
    if side == "pytorch":
        return torch.from_numpy(images)
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def answers(side, model):
    if side == "pytorch":
        with torch.no_grad():
            return model.eval()(outputs_of(side)).numpy()
    return np.asarray(keras.ops.convert_to_numpy(model(outputs_of(side), training=False)))


def by_hand(gone=()):
    """The network in NumPy, without the branches of some blocks."""

    def convolve(x, kernel):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("nihwkl,oikl->nohw", windows, kernel, optimize=True) + 0.1

    x = np.maximum(convolve(IMAGES, KERNELS["stem"]), 0)
    for n in range(BLOCKS):
        if n not in gone:
            y = convolve(np.maximum(convolve(x, KERNELS[f"{n}.one"]), 0), KERNELS[f"{n}.two"])
            x = np.maximum(x + y, 0)
    return x.mean(axis=(2, 3)) @ HEAD.T


def divergence(gone):
    """Kullback-Leibler divergence of the outputs without blocks from the full ones, in NumPy."""
    right, found = (
        one - np.log(np.exp(one).sum(1, keepdims=True)) for one in (by_hand(), by_hand(gone))
    )
    return float((np.exp(right) * (right - found)).sum(1).mean())


on_both = pytest.mark.parametrize("side", BUILDERS)


@on_both
@pytest.mark.parametrize("gone", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_the_cut_model_equals_the_network_without_these_branches(side, gone):
    model = BUILDERS[side]()
    network = sec.trace(model, outputs_of(side)[:2])
    cut = network.cut_of_blocks([NAMES[side].format(n) for n in gone])
    small = sec.apply(model, cut, outputs_of(side)[:2], network=network, proof="independent")
    assert np.allclose(answers(side, model), by_hand(), atol=1e-4)
    assert np.allclose(answers(side, small), by_hand(gone), atol=1e-4)
    proof = sec.report_of(small).proof
    assert proof.holds
    assert proof.independent.max_difference <= proof.independent.tolerance
    assert cut.after.params == cut.before.params - len(gone) * 2 * (9 * WIDTH**2 + WIDTH)
    images = network.macs() / sec.trace(model, outputs_of(side)[:1]).macs()
    of_a_block = 2 * 9 * WIDTH**2 * SIDE**2 * images
    assert cut.after.macs == cut.before.macs - len(gone) * of_a_block


@on_both
def test_blocks_whose_removal_changes_the_outputs_least_are_removed(side):
    model = BUILDERS[side]()
    found = sec.prune(
        model, outputs_of(side)[:2], depth=2, calibration=outputs_of(side), repair=False
    )
    first = min(range(BLOCKS), key=lambda n: divergence((n,)))
    second = min(set(range(BLOCKS)) - {first}, key=lambda n: divergence((first, n)))
    assert [b.name for b in found.blocks] == [NAMES[side].format(n) for n in (first, second)]
    assert np.allclose(answers(side, found.model), by_hand((first, second)), atol=1e-4)


def test_both_find_the_same_losses_and_repair_alike():
    found = {
        side: sec.prune(
            build(), outputs_of(side)[:2], depth=1, calibration=outputs_of(side), seed=0
        )
        for side, build in BUILDERS.items()
    }
    one, other = (found[side].blocks for side in BUILDERS)
    assert one[0].loss == pytest.approx(other[0].loss, rel=1e-3)
    mine, theirs = (answers(side, found[side].model) for side in BUILDERS)
    dense = by_hand()
    dropped = np.abs(by_hand((int(one[0].name[-1]),)) - dense).mean()
    for repaired in (mine, theirs):
        assert np.abs(repaired - dense).mean() < 0.5 * dropped
    assert np.abs(mine - theirs).mean() < 0.1 * dropped


@on_both
def test_blocks_and_channels_go_at_once_and_come_back_from_a_file(side, tmp_path):
    model = BUILDERS[side]()
    network = sec.trace(model, outputs_of(side)[:2])
    name = NAMES[side].format(1)
    inner = next(group.name for group in network.groups if group.name[-5:] in ("0.one", "0_one"))
    cut = network.cut({inner: [0, 4]}, blocks=[name])
    small = sec.apply(model, cut, outputs_of(side)[:2], network=network)
    sec.save(small, tmp_path / "small.safetensors")
    again = sec.load(BUILDERS[side](), tmp_path / "small.safetensors")
    assert np.array_equal(answers(side, again), answers(side, small))
    assert [block.owner for block in sec.report_of(again).cut.blocks] == [name]
    assert sec.Cut.from_json(cut.to_json()) == cut
    assert sec.trace(small, outputs_of(side)[:2]).params() == cut.after.params


@on_both
def test_depth_is_weighed_against_widths(side):
    model = BUILDERS[side]()
    found = sec.prune(
        model, outputs_of(side)[:2], sec.Budget(macs=0.6), depth=True, calibration=outputs_of(side)
    )
    assert found.report.cut.after.macs <= 0.6 * found.report.cut.before.macs
    assert sec.report_of(found.model).proof.holds


@on_both
def test_names_of_no_block_are_refused(side):
    model = BUILDERS[side]()
    with pytest.raises(sec.UnknownNameError, match="nothing"):
        sec.prune(model, outputs_of(side)[:2], depth=["nothing"])
    with pytest.raises(sec.BudgetError, match="3 blocks"):
        sec.prune(model, outputs_of(side)[:2], depth=4)
