"""Cuts that a Transformers configuration can express, rebuilt with from_pretrained."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before transformers

transformers = pytest.importorskip("transformers")

TOKENS = torch.arange(1, 13).reshape(2, 6)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXT = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 40,
}  # fmt: skip
VISION = {"image_size": 32, "patch_size": 8, "num_attention_heads": 4, "intermediate_size": 40}

# name -> (class, configuration, example inputs, outputs)
MODELS = {
    # its pooler is as wide as its hidden states; its heads' width is what divides them
    "bert": ("BertForSequenceClassification", transformers.BertConfig(**TEXT), "input_ids", None),
    # its feed-forward is four times as wide until it is said
    "gpt2": (
        "GPT2LMHeadModel",
        transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=4, n_positions=40),
        "input_ids", None,
    ),
    # fields in two configurations inside its own
    "clip": (
        "CLIPModel",
        transformers.CLIPConfig(
            text_config=TEXT,
            vision_config={**VISION, "hidden_size": 32, "num_hidden_layers": 1},
            projection_dim=8,
        ),
        "both", ["logits_per_image"],
    ),
    # lists, one entry a stage, of widths and of heads
    "segformer": (
        "SegformerForSemanticSegmentation",
        transformers.SegformerConfig(
            num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32],
            patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[2, 4], mlp_ratios=[2, 2],
            decoder_hidden_size=24,
        ),
        "pixel_values", None,
    ),
    # two fields that a sum ties
    "resnet": (
        "ResNetForImageClassification",
        transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 24], depths=[1, 1], layer_type="basic"
        ),
        "pixel_values", None,
    ),
}  # fmt: skip

FRESH = """
import json, sys, numpy as np, torch
sys.path.insert(0, "tests")
import torchvision_on_cpu, transformers
tokens, images = (torch.from_numpy(np.load(f"{sys.argv[1]}/{n}.npy")) for n in ("tokens", "images"))
for name, (kind, takes, output) in json.load(open(f"{sys.argv[1]}/models.json")).items():
    model = getattr(transformers, kind).from_pretrained(f"{sys.argv[1]}/{name}").eval()
    given = {"input_ids": tokens, "pixel_values": images}
    given = given if takes == "both" else {takes: given[takes]}
    with torch.no_grad():
        np.save(f"{sys.argv[1]}/{name}.npy", model(**given)[output].numpy())
"""


def build_model(name):
    kind, config, takes, outputs = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # attention as sharp as a trained model's
            if parameter.ndim > 1:
                parameter.mul_(5)
    given = {"input_ids": TOKENS, "pixel_values": IMAGES}
    return model, given if takes == "both" else {takes: given[takes]}, outputs


@pytest.fixture(scope="module")
def families():
    found = {}
    for name in MODELS:
        model, example, outputs = build_model(name)
        found[name] = sec.prune(model, example, {"params": 0.7}, uniform=True, outputs=outputs)
    return found


@pytest.fixture(scope="module")
def elsewhere(families, tmp_path_factory):
    """What a fresh process gets of each, by from_pretrained."""
    folder = tmp_path_factory.mktemp("saved")
    np.save(folder / "tokens.npy", TOKENS.numpy())
    np.save(folder / "images.npy", IMAGES.numpy())
    asked = {}
    for name, (kind, _, takes, outputs) in MODELS.items():
        families[name].model.save_pretrained(folder / name)
        asked[name] = (kind, takes, outputs[0] if outputs else "logits")
    (folder / "models.json").write_text(json.dumps(asked))
    subprocess.run([sys.executable, "-W", "ignore", "-c", FRESH, str(folder)], check=True)
    return {name: np.load(folder / f"{name}.npy") for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_process_gets_the_same_model_by_from_pretrained(name, families, elsewhere):
    _, example, outputs = build_model(name)
    small = families[name].model
    with torch.no_grad():
        expected = small(**example)[outputs[0] if outputs else "logits"].numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(elsewhere[name] / scale, expected / scale, atol=1e-5)
    assert 0.3 <= families[name].report.params_removed < 0.5


def test_only_cuts_that_the_configuration_can_express_are_made(families):
    """BERT's heads go with as much of the hidden states, so that their width stays."""
    small = families["bert"].model
    config = small.config
    assert config.hidden_size // config.num_attention_heads == 8
    assert small.bert.pooler.dense.out_features == config.hidden_size
    assert small.bert.encoder.layer[0].attention.self.query.out_features == config.hidden_size


def test_the_description_of_a_cut_is_saved_with_it(families, tmp_path):
    result = families["bert"]
    assert sec.Cut.from_json(result.cut.to_json()) == result.cut
    sec.save(result.model, tmp_path / "small.safetensors")
    loaded = sec.load(build_model("bert")[0], tmp_path / "small.safetensors")
    assert loaded.config.hidden_size == result.cut.fields["hidden_size"] < 32


def test_measured_plans_are_uniform_too():
    model, example, _ = build_model("bert")
    batches = [{"input_ids": torch.randint(1, 50, (16, 6))} for _ in range(4)]
    result = sec.prune(model, example, {"params": 0.8}, calibration=batches, uniform=True)
    small = result.model
    assert result.cut.fields
    widths = {layer.intermediate.dense.out_features for layer in small.bert.encoder.layer}
    assert widths == {small.config.intermediate_size}
    again = (
        type(small).from_pretrained(None, config=small.config, state_dict=small.state_dict()).eval()
    )
    with torch.no_grad():
        torch.testing.assert_close(again(**example).logits, small(**example).logits)


def test_a_budget_beyond_what_the_configuration_can_express_is_refused():
    model, example, _ = build_model("gpt2")
    with pytest.raises(sec.BudgetError, match="the nearest that can be met is params"):
        sec.prune(model, example, {"params": 0.01}, uniform=True)
