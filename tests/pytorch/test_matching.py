import pytest
from safetensors.torch import save_file
from torch import nn

from secateurs.errors import SecateursError
from secateurs.models import names
from secateurs.pytorch.matching import nearest_model


def test_the_model_is_named_that_the_weights_fit(tmp_path, monkeypatch):
    def build(name, **_):
        return nn.Linear(4, 3 if name == "timm:resnet18" else 2)

    def refuse(name):
        raise SecateursError(name)

    monkeypatch.setattr(names, "build", build)
    monkeypatch.setattr(names, "import_torchvision", refuse)
    path = tmp_path / "weights.safetensors"
    save_file(nn.Linear(4, 3).state_dict(), path)
    assert nearest_model(path, "resnet18") == "timm:resnet18"
    save_file(nn.Linear(7, 5).state_dict(), path)
    assert nearest_model(path, "resnet18") is None


@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_a_file_of_no_weights_fits_nothing(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert nearest_model(path, "resnet18") is None
