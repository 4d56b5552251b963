"""Models by name."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchvision_on_cpu  # noqa: F401 - before torchvision and timm
from secateurs.errors import ModelError, UnknownNameError
from secateurs.models import build, is_keras_file
from secateurs.models.cnn import VanillaCNN
from secateurs.models.resnet import ResNet


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of the user's in it."""
    (tmp_path / "users_models.py").write_text(
        "import torch\n"
        "def make(classes=10, width=4):\n"
        "    import users_helper\n"
        "    return torch.nn.Linear(users_helper.INPUTS, classes * width)\n"
        "def needs(wheels):\n"
        "    return torch.nn.Linear(wheels, 1)\n"
        "answer = 42\n"
    )
    (tmp_path / "users_helper.py").write_text("INPUTS = 7\n")
    (tmp_path / "users_broken.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("users_models", "users_helper", "users_broken"):
        sys.modules.pop(name, None)


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


def test_anybodys(here: Path) -> None:
    path = list(sys.path)
    model = build("users_models:make", classes=3, in_channels=3, size=64, width=2)
    assert (model.in_features, model.out_features) == (7, 6)
    assert sys.path == path


def test_anybodys_mistakes(here: Path) -> None:
    with pytest.raises(ModelError, match=r"unexpected keyword .*'depth'.*it takes: classes, width"):
        build("users_models:make", depth=3)
    with pytest.raises(ModelError, match="missing a required argument: 'wheels'"):
        build("users_models:needs", classes=3)
    with pytest.raises(UnknownNameError, match=r"no function 'mak'; did you mean 'make'\?"):
        build("users_models:mak")
    with pytest.raises(UnknownNameError, match="no function 'answer'"):
        build("users_models:answer")
    with pytest.raises(UnknownNameError, match=f"'users_modules' is neither .* in {here}"):
        build("users_modules:make")
    with pytest.raises(UnknownNameError, match="pip install a_package_that_is_not_there"):
        build("users_broken:make")
    with pytest.raises(UnknownNameError, match="expected package"):
        build(":make")


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match=r"no model 'resnet19'; did you mean 'resnet1"):
        build("resnet19")
    with pytest.raises(UnknownNameError, match=r"torchvision has no model 'resne50'; did you mean"):
        build("torchvision:resne50")
    with pytest.raises(UnknownNameError, match=r"timm has no model 'resne50'; did you mean"):
        build("timm:resne50")


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match="no option 'widht'; did you mean 'width'"):
        build("resnet18", widht=8)
    with pytest.raises(ModelError, match=r"expected images of 3 channels.*in_channels=1"):
        build("torchvision:resnet18", in_channels=1)
    with pytest.raises(ModelError, match="unexpected keyword argument 'wheels'"):
        build("torchvision:resnet18", wheels=4)
    with pytest.raises(ModelError, match="unexpected keyword argument 'wheels'"):
        build("timm:resnet18", wheels=4)
    with pytest.raises(ModelError, match=r"torchvision:vit_b_16: cannot be built with .*=30"):
        build("torchvision:vit_b_16", size=30)


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


def test_keras_files() -> None:
    assert is_keras_file("runs/model.keras")
    assert not is_keras_file("resnet18")
    with pytest.raises(ModelError, match="loaded by the Keras side"):
        build("runs/model.keras")


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
