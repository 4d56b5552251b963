"""User-defined models, by module and function."""

import sys
from pathlib import Path

import pytest

import torchvision_on_cpu  # noqa: F401 - before torchvision and timm
from secateurs.errors import ModelError, UnknownNameError
from secateurs.models import build


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


def test_a_users_code_that_exits_is_an_error_of_its_own(here: Path) -> None:
    (here / "users_script.py").write_text("raise SystemExit(2)\n")
    with pytest.raises(UnknownNameError, match=r"users_script.*it raised SystemExit: 2 \(line 1"):
        build("users_script:make")
    (here / "users_exit.py").write_text("def make():\n    raise SystemExit(3)\n")
    with pytest.raises(ModelError, match=r"users_exit.*its code raised SystemExit: 3 \(line 2"):
        build("users_exit:make")


def test_a_users_model_is_built(here: Path) -> None:
    path = list(sys.path)
    model = build("users_models:make", classes=3, in_channels=3, size=64, width=2)
    assert (model.in_features, model.out_features) == (7, 6)
    assert sys.path == path


def test_mistakes_in_a_users_model_are_reported(here: Path) -> None:
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
