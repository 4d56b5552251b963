"""KerasHub's backbones, built small and offline: name -> maker of (model, inputs).

Each is a classifier of four classes: the backbone, the mean of what it gives, and a Dense layer, so
that its last states are no output. A maker is given a factor for its widths: 1 builds the network
that is pruned, 0.5 the same one at half of every width that is a matter of choice.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray]
Maker = Callable[[float], tuple[Any, Any]]

WORDS, LENGTH, SIDE = 50, 8, 64


def _scale(sizes: dict[str, Any], factor: float) -> dict[str, Any]:
    """The arguments, with those of a name ``w_...`` times the factor."""

    def half(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(half(item) for item in value)
        return value if value is None else int(value * factor)

    found = {name: value for name, value in sizes.items() if not name.startswith("w_")}
    return found | {name[2:]: half(value) for name, value in sizes.items() if name.startswith("w_")}


def _classifier(backbone: Any, output: str | None) -> Any:
    import keras

    given = backbone.output
    if isinstance(given, dict):
        given = given[output] if output is not None else list(given.values())[-1]
    states = given
    while len(states.shape) > 2:
        states = keras.ops.mean(states, axis=1)
    return keras.Model(backbone.input, keras.layers.Dense(4, name="classes")(states))


def _text(kind: str, *, output: str | None = None, inputs: str = "words", **sizes: Any) -> Maker:
    def make(factor: float) -> tuple[Any, Any]:
        import keras_hub

        common = {} if "vocab_size" in sizes else {"vocabulary_size": WORDS}
        backbone = getattr(keras_hub.models, kind)(**common, **_scale(sizes, factor))
        return _classifier(backbone, output), INPUTS[inputs]()

    return make


def _tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(1, WORDS, (1, LENGTH)).astype("int32")


def _words() -> Inputs:
    return {"token_ids": _tokens(), "padding_mask": np.ones((1, LENGTH), "int32")}


def _segments() -> Inputs:
    return {**_words(), "segment_ids": np.zeros((1, LENGTH), "int32")}


def _without_mask() -> Inputs:
    return {"token_ids": _tokens(), "segment_ids": np.zeros((1, LENGTH), "int32")}


def _both_sides() -> Inputs:
    return {f"{side}_{name}": v for side in ("encoder", "decoder") for name, v in _words().items()}


def _sound() -> Inputs:
    sound = np.random.default_rng(0).normal(size=(1, 16, 80)).astype("float32")
    words = {f"decoder_{name}": value for name, value in _words().items()}
    return {"encoder_features": sound, **words}


INPUTS: dict[str, Callable[[], Any]] = {
    "words": _words,
    "segments": _segments,
    "no mask": _without_mask,
    "both": _both_sides,
    "sound": _sound,
    "tokens": _tokens,
}


def _image(kind: str, *, output: str | None = None, **sizes: Any) -> Maker:
    def make(factor: float) -> tuple[Any, Any]:
        import keras_hub

        backbone = getattr(keras_hub.models, kind)(**_scale(sizes, factor))
        image = np.random.default_rng(0).uniform(-1, 1, (1, SIDE, SIDE, 3)).astype("float32")
        return _classifier(backbone, output), image

    return make


ENCODER = {"num_layers": 2, "num_heads": 4, "w_hidden_dim": 32, "w_intermediate_dim": 64}
DECODER = {
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "w_hidden_dim": 32,
    "w_intermediate_dim": 64,
}
PICTURE = {"image_shape": (SIDE, SIDE, 3)}

BACKBONES: dict[str, Maker] = {
    "BERT": _text(
        "BertBackbone",
        inputs="segments",
        output="sequence_output",
        max_sequence_length=16,
        **ENCODER,
    ),
    "RoBERTa": _text("RobertaBackbone", max_sequence_length=16, **ENCODER),
    "DistilBERT": _text("DistilBertBackbone", max_sequence_length=16, **ENCODER),
    "ALBERT": _text(
        "AlbertBackbone",
        inputs="segments",
        output="sequence_output",
        max_sequence_length=16,
        w_embedding_dim=16,
        **ENCODER,
    ),
    "ELECTRA": _text(
        "ElectraBackbone",
        inputs="segments",
        output="sequence_output",
        vocab_size=WORDS,
        max_sequence_length=16,
        w_embedding_dim=16,
        **ENCODER,
    ),
    "DeBERTa-v3": _text("DebertaV3Backbone", max_sequence_length=16, bucket_size=8, **ENCODER),
    "FNet": _text(
        "FNetBackbone",
        inputs="no mask",
        output="sequence_output",
        max_sequence_length=16,
        num_layers=2,
        w_hidden_dim=32,
        w_intermediate_dim=64,
    ),
    "RoFormer-v2": _text("RoformerV2Backbone", inputs="no mask", w_head_size=8, **ENCODER),
    "ESM-2": _text("ESM2Backbone", inputs="tokens", **ENCODER),
    "GPT-2": _text("GPT2Backbone", max_sequence_length=16, **ENCODER),
    "OPT": _text("OPTBackbone", max_sequence_length=16, **ENCODER),
    "BLOOM": _text("BloomBackbone", **ENCODER),
    "GPT-NeoX": _text("GPTNeoXBackbone", max_sequence_length=16, **ENCODER),
    "Llama": _text("LlamaBackbone", **DECODER),
    "Gemma": _text("GemmaBackbone", w_head_dim=8, **DECODER),
    "Mistral": _text("MistralBackbone", **DECODER),
    "Phi-3": _text("Phi3Backbone", **DECODER),
    "Qwen-2": _text("Qwen2Backbone", **DECODER),
    "Mixtral": _text("MixtralBackbone", num_experts=4, **DECODER),
    "Falcon": _text(
        "FalconBackbone",
        num_layers=2,
        num_attention_heads=4,
        w_hidden_dim=32,
        w_intermediate_dim=64,
    ),
    "T5": _text("T5Backbone", inputs="both", output="decoder_sequence_output", **ENCODER),
    "BART": _text(
        "BartBackbone",
        inputs="both",
        output="decoder_sequence_output",
        max_sequence_length=16,
        **ENCODER,
    ),
    "Whisper": _text(
        "WhisperBackbone",
        inputs="sound",
        output="decoder_sequence_output",
        max_encoder_sequence_length=16,
        max_decoder_sequence_length=16,
        **ENCODER,
    ),
    "ViT": _image(
        "ViTBackbone",
        patch_size=16,
        num_layers=2,
        num_heads=4,
        w_hidden_dim=32,
        w_mlp_dim=64,
        **PICTURE,
    ),
    "DeiT": _image("DeiTBackbone", patch_size=16, **ENCODER, **PICTURE),
    "DINOv2": _image(
        "DINOV2Backbone",
        patch_size=16,
        position_embedding_shape=(SIDE, SIDE, 3),
        **ENCODER,
        **PICTURE,
    ),
    "MiT": _image(
        "MiTBackbone",
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[4, 2],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        w_hidden_dims=[16, 32],
        **PICTURE,
    ),
    "Swin": _image(
        "SwinTransformerBackbone",
        w_embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        **PICTURE,
    ),
    "ResNet": _image(
        "ResNetBackbone",
        w_input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2],
        block_type="bottleneck_block",
        **PICTURE,
    ),
    "VGG": _image(
        "VGGBackbone", stackwise_num_repeats=[1, 2], w_stackwise_num_filters=[16, 32], **PICTURE
    ),
    "DenseNet": _image(
        "DenseNetBackbone", stackwise_num_repeats=[2, 2], w_growth_rate=16, **PICTURE
    ),
    "Xception": _image(
        "XceptionBackbone",
        w_stackwise_conv_filters=[[16, 32], [32, 64]],
        stackwise_pooling=[False, True],
        **PICTURE,
    ),
    "MobileNet": _image(
        "MobileNetBackbone",
        w_stackwise_expansion=[[40, 56], [64, 144]],
        stackwise_num_blocks=[2, 2],
        w_stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        w_output_num_filters=64,
        w_depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        w_last_layer_filter=64,
        w_input_num_filters=16,
        squeeze_and_excite=0.5,
        **PICTURE,
    ),
    "EfficientNet": _image(
        "EfficientNetBackbone",
        input_shape=(SIDE, SIDE, 3),
        stackwise_width_coefficients=[1.0] * 2,
        stackwise_depth_coefficients=[1.0] * 2,
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 2],
        w_stackwise_input_filters=[32, 16],
        w_stackwise_output_filters=[16, 32],
        stackwise_expansion_ratios=[1, 6],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["v1", "v1"],
        stackwise_force_input_filters=[0, 0],
        stackwise_nores_option=[False, False],
        w_num_features=64,
    ),
    "HGNetV2": _image(
        "HGNetV2Backbone",
        depths=[1, 1],
        w_embedding_size=16,
        w_hidden_sizes=[32, 64],
        w_stem_channels=[3, 16, 16],
        hidden_act="relu",
        use_learnable_affine_block=False,
        stackwise_stage_filters=[[16, 16, 32, 1, 2, 3], [32, 16, 64, 1, 2, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, False],
        **PICTURE,
    ),
}
