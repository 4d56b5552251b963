"""Our ResNets, against torchvision's and against counts by hand."""

import pytest
import torch
from torch import Tensor, nn

import torchvision_on_cpu  # noqa: F401 - before torchvision
from secateurs import models
from secateurs.errors import ModelError, UnknownNameError
from secateurs.models.resnet import BasicBlock, Bottleneck, ResNet, build_resnet, own_name

DEPTHS = (18, 34, 50, 101, 152)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("depth", DEPTHS)
def test_without_through_layers_it_is_torchvisions(depth: int) -> None:
    import torchvision

    with torch.device("meta"):
        ours = build_resnet(depth)
        theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    assert parameters(ours) == parameters(theirs)
    shapes = [sorted(p.shape for p in model.parameters()) for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("depth", [18, 50])
def test_computes_what_torchvisions_does(depth: int) -> None:
    import torchvision

    torch.manual_seed(0)
    ours = build_resnet(depth, through=False, classes=7).eval()
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=7).eval()
    paired = {own_name(name): tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict(paired)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, received = theirs(x), ours(x)
    torch.testing.assert_close(received, expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


def test_through_layers_counted_by_hand() -> None:
    # ResNet-18: of eight blocks, three have a 1x1 convolution anyway. The five others stand at
    # widths 64, 64, 128, 256 and 512; each gains a square 1x1 convolution and a batch norm.
    widths = (64, 64, 128, 256, 512)
    plain = parameters(build_resnet(18, through=False))
    assert parameters(build_resnet(18, through=True)) - plain == sum(
        width * width + 2 * width for width in widths
    )
    bare = build_resnet(18, through=True, through_norm=False)
    assert parameters(build_resnet(18, through=True)) - parameters(bare) == 2 * sum(
        (64, 64, 128, 128, 256, 256, 512, 512)
    )


@pytest.mark.parametrize(
    ("factory", "blocks"),
    [
        (models.resnet18, 8),
        (models.resnet34, 16),
        (models.resnet50, 16),
        (models.resnet101, 33),
        (models.resnet152, 50),
    ],
)
def test_every_block_has_a_through_layer(factory: object, blocks: int) -> None:
    with torch.device("meta"):
        model = factory(width=8, through=True)
    found = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]
    assert len(found) == blocks
    for block in found:
        first = next(module for module in block.modules() if isinstance(module, nn.Conv2d))
        strides = max(m.stride for m in block.modules() if isinstance(m, nn.Conv2d))
        assert block.through.conv.kernel_size == (1, 1)
        assert block.through.conv.in_channels == first.in_channels
        assert block.through.conv.stride == strides


def test_names_are_readable() -> None:
    names = dict(build_resnet(18, width=4, through=True).named_modules())
    for name in (
        "stem.conv",
        "stages.0.1.conv1",
        "stages.0.1.norm1",
        "stages.0.1.through.conv",
        "stages.3.0.through.norm",
        "head",
    ):
        assert name in names


@pytest.mark.parametrize(
    ("stem", "halvings"), [("imagenet", 5), ("small", 3), ("small-stride2", 4)]
)
def test_stems_shrink_the_image(stem: str, halvings: int) -> None:
    torch.manual_seed(0)
    model = build_resnet(18, width=4, classes=3, in_channels=1, stem=stem).eval()
    seen: list[torch.Size] = []
    model.pool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    for size in (64, 96):  # no size is baked in
        assert model(torch.randn(2, 1, size, size)).shape == (2, 3)
        assert seen.pop() == (2, 32, size >> halvings, size >> halvings)


def test_both_convolutions_of_a_block_can_lose_channels_alone() -> None:
    torch.manual_seed(0)
    model = build_resnet(18, width=8, classes=3, stem="small", through=True).eval()
    block, following = model.stages[0][0], model.stages[0][1]
    kept = torch.tensor([0, 1, 2, 4, 5, 7])
    for conv, norm in ((block.conv2, block.norm2), (block.through.conv, block.through.norm)):
        _keep_outputs(conv, norm, kept)
    for conv in (following.conv1, following.through.conv):
        conv.weight = nn.Parameter(conv.weight[:, kept])
        conv.in_channels = len(kept)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 3)


def _keep_outputs(conv: nn.Conv2d, norm: nn.BatchNorm2d, kept: Tensor) -> None:
    conv.weight = nn.Parameter(conv.weight[kept])
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name)[kept]))
    for name in ("running_mean", "running_var"):
        setattr(norm, name, getattr(norm, name)[kept])


def test_activations_neither_vanish_nor_explode_without_norms_on_the_skips() -> None:
    torch.manual_seed(0)
    model = build_resnet(152, width=8, classes=10, stem="small", through_norm=False).train()
    seen: list[float] = []
    model.pool.register_forward_pre_hook(lambda module, inputs: seen.append(float(inputs[0].std())))
    with torch.no_grad():
        model(torch.randn(8, 3, 16, 16))
    assert 0.1 < seen[0] < 100


def test_any_number_of_blocks() -> None:
    model = ResNet((1, 2), bottleneck=True, classes=5, width=4, stem="small")
    assert [len(stage) for stage in model.stages] == [1, 2]
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_mistakes_are_named() -> None:
    with pytest.raises(ModelError, match=r"depth of 18, 34, 50, 101, 152; received 20.*ResNet\("):
        build_resnet(20)
    with pytest.raises(UnknownNameError, match="did you mean 'small'"):
        build_resnet(18, stem="smal")
    with pytest.raises(
        ModelError, match="width to be a whole number of at least 1; received int 0"
    ):
        build_resnet(18, width=0)
