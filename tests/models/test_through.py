"""Pass-through layers in trained models change nothing until something is pruned."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import torchvision_on_cpu  # noqa: F401 - before torchvision and timm
from secateurs.errors import ModelError, UnknownNameError
from secateurs.models import add_through_layers
from secateurs.models.resnet import build_resnet


def settle_moments(model: nn.Module) -> nn.Module:
    """A model with batch norms as after training: nothing is 0 or 1 any more."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def through_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if name.endswith(("downsample.conv", "through.conv", "shortcut.conv"))
        and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }


def torchvision_model(name: str) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None)


def wide_model() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [2, 2, 1, 1], width_per_group=128)


def timm_model(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=10)


# Blocks in the model, less those whose skip has a convolution already.
MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "torchvision resnet18": (lambda: torchvision_model("resnet18"), 8 - 3),
    "torchvision resnet50": (lambda: torchvision_model("resnet50"), 16 - 4),
    "torchvision resnext50": (lambda: torchvision_model("resnext50_32x4d"), 16 - 4),
    "torchvision wide": (wide_model, 6 - 4),
    "timm resnet18": (lambda: timm_model("resnet18"), 8 - 3),
    "timm resnet50d": (lambda: timm_model("resnet50d"), 16 - 4),
    "timm seresnet50": (lambda: timm_model("seresnet50"), 16 - 4),
    "timm skresnet18": (lambda: timm_model("skresnet18"), 8 - 3),
    "timm regnet": (lambda: timm_model("regnetx_002"), 13 - 4),
    "ours": (lambda: build_resnet(18, through=False, width=8), 8 - 3),
    "our bottlenecks": (lambda: build_resnet(50, through=False, width=8), 16 - 4),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_outputs_are_the_same_and_the_original_is_untouched(name: str) -> None:
    torch.manual_seed(0)
    build, expected = MODELS[name]
    model = settle_moments(build())
    before = copy.deepcopy(model.state_dict())
    modules = dict(model.named_modules())

    deeper = add_through_layers(model)

    assert len(through_layers(deeper)) - len(through_layers(model)) == expected
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        was, now = model(x), deeper(x)
    assert was.abs().max() > 1e-3
    torch.testing.assert_close(now, was, rtol=1e-5, atol=1e-5 * float(was.abs().max()))
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in deeper.parameters()}


def test_no_random_state_changes() -> None:
    model = build_resnet(18, through=False, width=4)
    before = torch.get_rng_state()
    add_through_layers(model)
    assert torch.equal(before, torch.get_rng_state())


def test_only_basic_blocks() -> None:
    with torch.no_grad():
        assert (
            len(
                through_layers(
                    add_through_layers(build_resnet(18, through=False, width=4), "basic")
                )
            )
            == 8
        )
    with pytest.raises(ModelError, match="basic residual block"):
        add_through_layers(build_resnet(50, through=False, width=4), "basic")
    with pytest.raises(UnknownNameError, match="did you mean 'basic'"):
        add_through_layers(build_resnet(18, through=False, width=4), "basics")


def test_keeps_dtype_mode_and_what_is_trained() -> None:
    model = build_resnet(18, through=False, width=4).double().train()
    model.stages[0].requires_grad_(False)
    deeper = add_through_layers(model)
    assert deeper.stages[0][0].through.conv.weight.dtype == torch.float64
    assert not deeper.stages[0][0].through.conv.weight.requires_grad
    assert deeper.stages[1][1].through.conv.weight.requires_grad
    assert all(module.training for module in deeper.modules())
    half = add_through_layers(build_resnet(18, through=False, width=4).bfloat16())
    assert half.stages[0][0].through.conv.weight.dtype == torch.bfloat16


def test_the_running_statistics_stay() -> None:
    model = settle_moments(build_resnet(18, through=False, width=4)).train()
    deeper = add_through_layers(model)
    kept = deeper.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in deeper.modules())


def test_the_last_convolutions_channels_can_go_alone_afterwards() -> None:
    model = settle_moments(build_resnet(18, through=False, width=8, classes=4))
    deeper = add_through_layers(model)
    block, following = deeper.stages[0][1], deeper.stages[1][0]
    with torch.no_grad():
        block.conv2.weight = nn.Parameter(block.conv2.weight[1:])
        block.through.conv.weight = nn.Parameter(block.through.conv.weight[1:])
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(block.norm2, name)[1:]
            setattr(block.norm2, name, nn.Parameter(value) if "running" not in name else value)
        for conv in (following.conv1, following.through.conv):
            conv.weight = nn.Parameter(conv.weight[:, 1:])
        assert deeper(torch.randn(2, 3, 64, 64)).shape == (2, 4)


class Identities(nn.Module):
    """The usual block of small tutorials: an empty Sequential where the skip is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class Stage(nn.Module):
    """Its `downsample` stands before the convolutions, not beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.downsample = nn.Identity()
        self.block = Identities()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.downsample(x))


class PreActivation(nn.Module):
    """Its `downsample` would be given the activated input, its identity skip is not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.downsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(x)
        skip = x if self.downsample is None else self.downsample(active)
        return self.conv1(active) + skip


class NoSkip(nn.Module):
    """Without a `downsample` it has no skip at all, as in some RegNets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.downsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        return out if self.downsample is None else out + self.downsample(x)


class Unused(nn.Module):
    """Its `downsample` is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x) + x


class OnTheBranch(nn.Module):
    """Its `projection` stands behind the convolution, and the skip has no place for a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.projection = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.conv1(x)) + x


def test_finds_the_block_within_a_stage() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Stage(), Identities()).eval()
    deeper = add_through_layers(model)
    assert list(through_layers(deeper)) == ["0.block.shortcut.conv", "1.shortcut.conv"]
    x = torch.randn(1, 6, 9, 9)
    torch.testing.assert_close(deeper(x), model(x))


@pytest.mark.parametrize("block", [PreActivation, NoSkip, Unused, OnTheBranch])
def test_other_blocks_are_left_as_they_are(block: type[nn.Module]) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=r"expected at least one residual block .* found none"):
        add_through_layers(nn.Sequential(block(), nn.ReLU()))
    deeper = add_through_layers(nn.Sequential(block(), Identities()))
    assert list(through_layers(deeper)) == ["1.shortcut.conv"]
    assert [type(module) for module in deeper[0].modules()] == [
        type(module) for module in block().modules()
    ]


@pytest.mark.parametrize("name", ["vgg11", "densenet121"])
def test_models_without_such_blocks_are_refused(name: str) -> None:
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    with pytest.raises(ModelError, match=r"found none.*prune it as it is"):
        add_through_layers(model)


def test_pre_activation_resnets_are_refused() -> None:
    with pytest.raises(ModelError, match="ResNetV2"):
        add_through_layers(timm_model("resnetv2_50"))


def test_videos() -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.video.r3d_18(weights=None, num_classes=4).eval()
    deeper = add_through_layers(model)
    assert len(through_layers(deeper)) == 8 - 3
    x = torch.randn(1, 3, 4, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(deeper(x), model(x))
