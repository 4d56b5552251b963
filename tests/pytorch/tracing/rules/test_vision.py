"""Operations of torchvision, in models that use them.

torchvision's compiled operators do not load beside a CPU build of PyTorch. Where they are missing,
they are written here in Python, after their definition.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before torchvision

torchvision = pytest.importorskip("torchvision")

DEFORM = (
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, "
    "SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor"
)
ROI_ALIGN = (
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, "
    "SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor"
)


def deform_conv2d(
    x, weight, offset, mask, bias, sh, sw, ph, pw, dh, dw, groups, offset_groups, use_mask
):
    """Sample the image under every place of the kernel, then multiply by the kernel."""
    n, channels, height, width = x.shape
    kernel, (rows, columns) = weight.shape[2:], offset.shape[2:]
    places = kernel[0] * kernel[1]
    moved = offset.view(n, offset_groups, places, 2, rows, columns)
    parts = x.view(n, offset_groups, channels // offset_groups, height, width)
    found = []
    for place in range(places):
        down = torch.arange(rows) * sh - ph + place // kernel[1] * dh
        right = torch.arange(columns) * sw - pw + place % kernel[1] * dw
        for group in range(offset_groups):
            y = down[:, None] + moved[:, group, place, 0]
            z = right + moved[:, group, place, 1]
            grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
            sampled = F.grid_sample(parts[:, group], grid, align_corners=True)
            if use_mask:
                weights = mask.view(n, offset_groups, places, rows, columns)
                sampled = sampled * weights[:, group, place, None]
            found.append(sampled)
    columns_of = torch.stack(found).view(places, offset_groups, n, -1, rows, columns)
    whole = columns_of.permute(2, 1, 3, 0, 4, 5).reshape(n, groups, -1, places * rows * columns)
    whole = whole.view(n, groups, channels // groups * places, rows * columns)
    kernels = weight.view(groups, weight.shape[0] // groups, -1)
    made = torch.einsum("ngkp,gok->ngop", whole, kernels).reshape(n, -1, rows, columns)
    return made + bias.view(1, -1, 1, 1)


def roi_align(x, rois, scale, height, width, ratio, aligned):
    """Each region's values at ``ratio`` times as many places each way, then their means."""
    found = []
    for number, left, top, right, bottom in (rois * torch.tensor([1, *[scale] * 4])).tolist():
        rows = torch.linspace(0.5, height * ratio - 0.5, height * ratio) / (height * ratio)
        columns = torch.linspace(0.5, width * ratio - 0.5, width * ratio) / (width * ratio)
        y = (top + (bottom - top) * rows - aligned / 2) / (x.shape[2] - 1) * 2 - 1
        z = (left + (right - left) * columns - aligned / 2) / (x.shape[3] - 1) * 2 - 1
        grid = torch.stack(torch.meshgrid(z, y, indexing="xy"), -1)[None]
        sampled = F.grid_sample(x[int(number)][None], grid, align_corners=True)
        found.append(F.avg_pool2d(sampled, ratio))
    return torch.cat(found)


@pytest.fixture(autouse=True, scope="module")
def operators():
    """torchvision's operators, compiled or not."""
    from torchvision import extension

    if extension._has_ops():
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define(DEFORM)
        library.define(ROI_ALIGN)
        for name, function in (("deform_conv2d", deform_conv2d), ("roi_align", roi_align)):
            library.impl(name, function, "CPU")
        library.impl("deform_conv2d", lambda x, w, o, *_: _like(x, w, o), "Meta")
        library.impl(
            "roi_align", lambda x, r, _, h, w, *__: x.new_empty(len(r), x.shape[1], h, w), "Meta"
        )
        patch.setattr("torchvision.ops.deform_conv._assert_has_ops", lambda: None)
        yield
        library._destroy()


def _like(x, weight, offset):
    return x.new_empty(len(x), weight.shape[0], *offset.shape[2:])


class Deforming(nn.Module):
    """A deformable convolution between two plain ones."""

    def __init__(self, groups=1, offset_groups=1, modulated=True):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.offset = nn.Conv2d(8, offset_groups * 18, 3, padding=1)
        self.weights = nn.Conv2d(8, offset_groups * 9, 3, padding=1) if modulated else None
        self.deform = torchvision.ops.DeformConv2d(8, 12, 3, padding=1, groups=groups)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        x = self.first(x).relu()
        mask = None if self.weights is None else self.weights(x).sigmoid()
        return self.head(self.deform(x, self.offset(x), mask).relu())


IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def test_without_offsets_the_stand_in_is_a_convolution():
    layer = torchvision.ops.DeformConv2d(8, 12, 3, padding=1, stride=2, dilation=2, groups=2)
    x = torch.randn(2, 8, 9, 9)
    plain = F.conv2d(x, layer.weight, layer.bias, 2, 1, 2, 2)
    offset = torch.zeros(2, 18, *plain.shape[2:])
    assert torch.allclose(layer(x, offset), plain, atol=1e-5)


@pytest.mark.parametrize(("groups", "reads", "makes"), [(1, 4, 6), (2, 4, 6)])
@pytest.mark.parametrize("modulated", [True, False])
def test_a_deformable_convolution_is_cut_on_both_sides(groups, reads, makes, modulated):
    # Half of each width goes; of two groups, one.
    torch.manual_seed(0)
    model = Deforming(groups, modulated=modulated).eval()
    network = sec.trace(model, IMAGE)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5)
    small = sec.apply(model, cut, IMAGE, network=network)
    assert sec.report_of(small).proof.inexact == ()
    assert (
        small.deform.weight.shape[0] == small.deform.out_channels == small.head.in_channels == makes
    )
    assert small.deform.in_channels == small.first.out_channels == reads
    assert small.offset.out_channels == 18  # two for each place of the kernel


def test_by_hand_a_deformable_convolution_without_a_channel_is_one_that_reads_zeros():
    torch.manual_seed(0)
    model = Deforming().eval()
    small = sec.delete_channels(model, {"first": [0, 5]}, IMAGE)
    for reader in (model.offset, model.weights, model.deform):
        reader.weight.data[:, [0, 5]] = 0
    assert torch.allclose(small(IMAGE), model(IMAGE), atol=1e-5)


def test_channels_with_their_own_offsets_are_frozen():
    network = sec.trace(Deforming(offset_groups=2), IMAGE)
    reasons = " ".join(reason for f in network.frozen for reason in f.reasons)
    assert "with their own offsets" in reasons
    assert [group.name for group in network.groups] == ["deform"]


class Regions(nn.Module):
    """Features of two regions, classified."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, padding=1)
        self.hidden, self.head = nn.Linear(8 * 9, 10), nn.Linear(10, 2)

    def forward(self, x):
        boxes = torch.tensor([[0.0, 0, 0, 6, 6], [1, 2, 2, 8, 8]])
        found = torch.ops.torchvision.roi_align(self.features(x), boxes, 1.0, 3, 3, 2, False)
        return self.head(self.hidden(found.flatten(1)).relu())


def test_regions_carry_channels():
    torch.manual_seed(0)
    model = Regions().eval()
    small = sec.delete_channels(model, {"features": [1, 2, 7]}, IMAGE)
    assert small.hidden.in_features == 5 * 9
    model.hidden.weight.data.view(10, 8, 9)[:, [1, 2, 7]] = 0
    assert torch.allclose(small(IMAGE), model(IMAGE), atol=1e-5)
