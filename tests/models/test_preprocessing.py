"""How a pretrained model expects its images."""

import json

import pytest

from secateurs import models


def test_a_models_own_configuration():
    import torchvision_on_cpu  # noqa: F401

    found = models.preprocessing_of("torchvision:resnet50")
    assert (found.mean, found.std, found.size) == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        224,
    )
    assert found.crop == pytest.approx(224 / 232)
    vit = models.preprocessing_of("timm:vit_tiny_patch16_224")
    assert (vit.mean, vit.size, vit.crop) == ((0.5, 0.5, 0.5), 224, 0.9)
    assert vit.as_text == "0.5,0.5,0.5/0.5,0.5,0.5"
    detector = models.preprocessing_of("torchvision:fcos_resnet50_fpn")  # it normalises itself
    assert (detector.mean, detector.std, detector.size) == ((0.0,) * 3, (1.0,) * 3, None)
    assert models.preprocessing_of("vanilla_cnn") is None
    assert models.preprocessing_of("timm:no_such_model") is None


def test_a_directorys_image_processor(tmp_path):
    settings = {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "size": {"shortest_edge": 64},
            "do_center_crop": True, "crop_size": {"height": 56, "width": 56}}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    found = models.preprocessing_of(f"transformers:{tmp_path}")
    assert (found.mean, found.std, found.size, found.crop) == ((0.1,) * 3, (0.2,) * 3, 56, 0.875)
