"""Models for the coverage benchmark: name -> (model with random weights, example inputs).

Names are ``source:model``. Those of ``OTHERS`` are built from a configuration of their own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from support.torchvision_on_cpu import let_detectors_run  # before torchvision

Built = tuple[nn.Module, Any]
CLASSES = 1000


def build(name: str) -> Built:
    """A model in eval mode with random weights from a fixed seed, and inputs for it."""
    torch.manual_seed(0)
    source, _, model_name = name.partition(":")
    maker = OTHERS.get(name)
    if maker is not None:
        model, inputs = maker()
    elif source == "torchvision":
        model, inputs = _torchvision(model_name)
    else:
        model, inputs = _timm(model_name)
    return model.eval(), inputs


def _torchvision(name: str) -> Built:
    import torchvision

    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, weights=None, **quick), image(size)


def _timm(name: str) -> Built:
    import timm

    try:
        model = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    except TypeError:  # a few have no classifier to choose
        model = timm.create_model(name, pretrained=False)
    size = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
    return model, torch.randn(1, *size)


def image(size: int) -> torch.Tensor:
    return torch.randn(1, 3, size, size)


def _segmentation(name: str) -> Callable[[], Built]:
    def make() -> Built:
        import torchvision

        return torchvision.models.get_model(name, weights=None, weights_backbone=None), image(128)

    return make


def _detection(name: str) -> Callable[[], Built]:
    def make() -> Built:
        import torchvision

        let_detectors_run()
        side = 256 if name.startswith("fcos") else 128  # its norms need more than one position
        small = {} if name.startswith("ssd") else {"min_size": side, "max_size": side}
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None, **small)
        if name.startswith("fcos"):
            model.score_thresh = 0.0  # untrained, it finds no box that is surer
        return model, ([torch.rand(3, 128, 128)],)

    return make


def _video() -> Built:
    import torchvision

    model = torchvision.models.get_model("r3d_18", weights=None, num_classes=CLASSES)
    return model, torch.randn(1, 3, 8, 64, 64)


def _flow() -> Built:
    import torchvision

    model = torchvision.models.get_model("raft_small", weights=None)
    return model, (image(128), image(128))


def _unet(architecture: str, encoder: str) -> Callable[[], Built]:
    def make() -> Built:
        import segmentation_models_pytorch

        maker = getattr(segmentation_models_pytorch, architecture)
        return maker(encoder, encoder_weights=None, classes=5), image(128)

    return make


def _transformer(model: str, configuration: str, **settings: Any) -> Callable[[], Built]:
    def make() -> Built:
        import transformers

        config = getattr(transformers, configuration)(**settings)
        made = getattr(transformers, model)(config)
        size = settings.get("image_size", 64)
        return made, {"pixel_values": image(size)}

    return make


def _language(model: str, configuration: str, **settings: Any) -> Callable[[], Built]:
    def make() -> Built:
        import transformers

        config = getattr(transformers, configuration)(**settings)
        ids = torch.randint(0, settings["vocab_size"], (1, 16))
        return getattr(transformers, model)(config), {"input_ids": ids, "use_cache": False}

    return make


SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
OTHERS: dict[str, Callable[[], Built]] = {
    **{
        f"torchvision:{name}": _segmentation(name)
        for name in (
            "fcn_resnet50",
            "deeplabv3_resnet50",
            "deeplabv3_mobilenet_v3_large",
            "lraspp_mobilenet_v3_large",
        )
    },
    **{
        f"torchvision:{name}": _detection(name)
        for name in (
            "retinanet_resnet50_fpn",
            "ssd300_vgg16",
            "ssdlite320_mobilenet_v3_large",
            "fcos_resnet50_fpn",
            "fasterrcnn_resnet50_fpn",
        )
    },
    "torchvision:r3d_18": _video,
    "torchvision:raft_small": _flow,
    "smp:Unet": _unet("Unet", "resnet18"),
    "smp:UnetPlusPlus": _unet("UnetPlusPlus", "resnet18"),
    "smp:FPN": _unet("FPN", "resnet18"),
    "smp:PSPNet": _unet("PSPNet", "resnet18"),
    "smp:DeepLabV3Plus": _unet("DeepLabV3Plus", "resnet18"),
    "smp:Linknet": _unet("Linknet", "resnet18"),
    "smp:MAnet": _unet("MAnet", "resnet18"),
    "smp:PAN": _unet("PAN", "resnet18"),
    "smp:Segformer": _unet("Segformer", "resnet18"),
    "transformers:ViT": _transformer(
        "ViTForImageClassification", "ViTConfig", **SMALL, image_size=64, patch_size=16
    ),
    "transformers:Swin": _transformer(
        "SwinForImageClassification",
        "SwinConfig",
        image_size=64,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "transformers:SegFormer": _transformer(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=64,
    ),
    "transformers:ConvNeXt": _transformer(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 2, 1],
    ),
    "transformers:DETR": _transformer(
        "DetrForObjectDetection",
        "DetrConfig",
        backbone="resnet18",
        use_timm_backbone=True,
        use_pretrained_backbone=False,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=10,
        image_size=64,
    ),
    "transformers:Llama": _language(
        "LlamaForCausalLM",
        "LlamaConfig",
        **SMALL,
        num_key_value_heads=2,
        vocab_size=100,
        tie_word_embeddings=True,
    ),
    "transformers:GPT-2": _language(
        "GPT2LMHeadModel", "GPT2Config", n_embd=64, n_layer=2, n_head=4, vocab_size=100
    ),
}
