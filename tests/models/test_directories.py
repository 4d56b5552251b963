import json

import pytest
import torch

import torchvision_on_cpu  # noqa: F401 - before Transformers imports it
from secateurs.errors import ModelError, UnknownNameError
from secateurs.models.directories import load_directory

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    place = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(place)
    return place, model


def test_a_directory_is_the_model_that_was_saved(tiny):
    place, model = tiny
    found = load_directory(place)
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        torch.testing.assert_close(found(tokens).logits, model(tokens).logits)
    assert not found.training


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda place: (place / "config.json").unlink(), UnknownNameError, "received one without"),
        (lambda place: (place / "model.safetensors").unlink(), ModelError, "a directory without"),
        (lambda place: (place / "config.json").write_text("{}"), ModelError, "its architectures"),
        (
            lambda place: (place / "config.json").write_text('{"architectures": ["Mine"]}'),
            ModelError,
            "received 'Mine'. Code that comes with a checkpoint is not run",
        ),
        (
            lambda place: (place / "config.json").write_text(
                json.dumps({**json.loads((place / "config.json").read_text()), "hidden_size": "x"})
            ),
            ModelError,
            "cannot be loaded as a BertForSequenceClassification",
        ),
    ],
)
def test_a_directory_without_a_model_is_refused(tiny, tmp_path, change, kind, message):
    for path in tiny[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    change(tmp_path)
    with pytest.raises(kind, match=message):
        load_directory(tmp_path)


def test_nothing_is_fetched_and_no_options_are_taken(tiny, tmp_path):
    with pytest.raises(UnknownNameError, match=r"no directory. Models are not fetched from a hub"):
        load_directory(tmp_path / "bert-base")
    with pytest.raises(ModelError, match=r"expected no options .*received width"):
        load_directory(tiny[0], {"width": 3})
