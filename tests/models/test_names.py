"""Models by name."""

import subprocess
import sys

import pytest
import torch

import torchvision_on_cpu  # noqa: F401 - before torchvision and timm
from secateurs.errors import ModelError, UnknownNameError
from secateurs.models import build
from secateurs.models.cnn import VanillaCNN
from secateurs.models.resnet import ResNet


def test_ours() -> None:
    model = build("resnet18", classes=8, in_channels=1, width=4, size=32, stem="small")
    assert isinstance(model, ResNet)
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 8)
    cnn = build("vanilla_cnn", classes=3, in_channels=1, size=28)
    assert isinstance(cnn, VanillaCNN)
    assert cnn(torch.zeros(1, 1, 28, 28)).shape == (1, 3)


def test_torchvision() -> None:
    model = build("torchvision:resnet18", classes=5, in_channels=3, size=64)
    assert model.fc.out_features == 5
    transformer = build("torchvision:vit_b_32", classes=5, size=64)
    assert transformer(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_timm() -> None:
    model = build("timm:resnet18", classes=5, in_channels=1, size=64)
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 5)
    transformer = build("timm:vit_tiny_patch16_224", classes=5, size=64)
    assert transformer(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"download of {arguments}")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    build(
        "torchvision:lraspp_mobilenet_v3_large", classes=3
    )  # its backbone's weights are a default
    build("timm:resnet18.a1_in1k")
    with pytest.raises(UnknownNameError, match="timm has no model 'hf-hub:timm/resnet18"):
        build("timm:hf-hub:timm/resnet18.a1_in1k")


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match=r"no model 'resnet19'; did you mean 'resnet1"):
        build("resnet19")
    with pytest.raises(UnknownNameError, match=r"torchvision has no model 'resne50'; did you mean"):
        build("torchvision:resne50")
    with pytest.raises(UnknownNameError, match=r"timm has no model 'resne50'; did you mean"):
        build("timm:resne50")


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_missing_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnknownNameError, match=f"not installed; pip install '{package}'"):
        build(f"{package}:resnet18")


def test_missing_pytorch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from secateurs.models import build, is_keras_file\n"
        "build('resnet18')"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "'torch' is not installed; pip install 'secateurs[torch]'" in run.stderr


def test_finding_names_imports_no_framework() -> None:
    code = (
        "import sys, secateurs.models, secateurs.data; from secateurs.models import is_keras_file; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'keras', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_torchvision_imports_beside_a_cpu_build() -> None:
    code = "from secateurs.models import build; build('torchvision:squeezenet1_1')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("torchvision:resnet18", {"weights": "NONSENSE"}),
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("timm:resnet18", {"pretrained": True}),
        ("resnet18", {"weights": "mine.pt"}),
    ],
)
def test_weights_are_neither_downloaded_nor_ignored(name: str, option: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"nothing is downloaded.*--weights FILE"):
        build(name, **option)
