"""Checkpoints in the forms that training scripts write."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before torchvision
from secateurs import models
from secateurs.pytorch.checkpoints import classes_in, fit_names, tensors_in
from secateurs.pytorch.matching import nearest_model


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))


def add_prefix(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net."])
@pytest.mark.parametrize("nested", [None, "state_dict", "model", "model_state_dict"])
def test_wrappers_and_scripts(tmp_path, prefix, nested):
    trained = network(1)
    state = add_prefix(trained.state_dict(), prefix)
    torch.save(state if nested is None else {"epoch": 3, nested: state}, tmp_path / "mine.pt")
    loaded = sec.load(network(0), tmp_path / "mine.pt")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_lightning_checkpoint_with_its_loss_beside_the_model(tmp_path):
    trained = network(1)
    state = add_prefix(trained.state_dict(), "model.") | {"criterion.weight": torch.ones(5)}
    torch.save(
        {"state_dict": state, "pytorch-lightning_version": "2.4.0", "global_step": 7,
         "hyper_parameters": {"lr": 0.1}}, tmp_path / "last.ckpt",
    )  # fmt: skip
    loaded = sec.load(network(0), tmp_path / "last.ckpt")
    assert torch.equal(loaded[0].weight, trained[0].weight)


def test_averaged_weights_are_taken_where_asked_for(tmp_path):
    plain, averaged = network(1), network(2)
    path = tmp_path / "both.pth"
    torch.save({"model": plain.state_dict(), "model_ema": averaged.state_dict()}, path)
    assert torch.equal(sec.load(network(), path)[0].weight, plain[0].weight)
    assert torch.equal(sec.load(network(), path, ema=True)[0].weight, averaged[0].weight)
    torch.save({"model": plain.state_dict()}, path)
    with pytest.raises(sec.CheckpointError, match=r"expected averaged weights .* received model"):
        sec.load(network(), path, ema=True)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(2)], {"a": 1, "b": "x"}])
def test_what_is_no_checkpoint(content):
    with pytest.raises(sec.CheckpointError, match="mine: expected a dictionary of tensors"):
        tensors_in(content, "mine")


def test_nothing_is_dropped_that_the_model_may_need():
    state = {"a.weight": 1, "other.weight": 2}
    assert fit_names(state, {"a.weight": 0, "b.weight": 0}) == state


def test_classes_are_read_off_the_weights():
    import torchvision

    for name in ("resnet18", "mobilenet_v3_small", "squeezenet1_0", "vit_b_16", "densenet121"):
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None, num_classes=7)
        assert classes_in(model.state_dict()) == 7, name


def test_a_mismatch_names_the_model_that_fits(tmp_path):
    from secateurs.cli.models import build_model

    torch.manual_seed(0)
    standard = models.build("torchvision:resnet18", classes=6)
    path = tmp_path / "standard.pth"
    torch.save({"state_dict": add_prefix(standard.state_dict(), "module.")}, path)
    assert nearest_model(path, "resnet34") == "resnet18"
    with pytest.raises(sec.CheckpointError, match="fit resnet18: name that model"):
        build_model("resnet34", (), None, str(path), "1x3x64x64")
    torch.save(models.build("resnet18", through=True, classes=6).state_dict(), path)
    with pytest.raises(sec.CheckpointError, match="fit resnet18 -o through=true: name that"):
        build_model("resnet18", (), None, str(path), "1x3x64x64")
    torch.save({"state_dict": add_prefix(standard.state_dict(), "module.")}, path)
    ours, example, _ = build_model(
        "resnet18", (), None, str(path), "1x3x32x32"
    )  # of another stem's size
    with torch.no_grad():
        x = torch.from_numpy(example)
        assert torch.allclose(ours.eval()(x), standard.eval()(x), atol=1e-5)
    model, _, options = build_model("torchvision:resnet18", (), None, str(path), "1x3x64x64")
    assert options["classes"] == 6
    assert torch.equal(model.fc.weight, standard.fc.weight)


def test_a_directory_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    saved = transformers.ViTForImageClassification(config).eval()
    saved.save_pretrained(tmp_path / "vit")
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32))
    for source in ("transformers", "hf"):
        loaded = models.build(f"{source}:{tmp_path / 'vit'}", classes=3, size=8)
        assert torch.equal(loaded(x).logits, saved(x).logits)
    with pytest.raises(sec.UnknownNameError, match="not fetched from a hub"):
        models.build("hf:google/vit-base-patch16-224")
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(sec.ModelError, match="expected weights"):
        models.build(f"hf:{tmp_path / 'vit'}")
