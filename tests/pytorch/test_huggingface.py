"""Transformers models are saved with save_pretrained and loaded in a fresh process."""

import copy
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before transformers
from secateurs import data, models

transformers = pytest.importorskip("transformers")

LLAMA = transformers.LlamaConfig(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, head_dim=16, max_position_embeddings=32,
)  # fmt: skip
TOKENS = torch.tensor(np.random.default_rng(0).integers(0, 50, (2, 9)))

FRESH = """
import sys, torch, numpy as np
sys.path.insert(0, "tests")
import torchvision_on_cpu
import transformers
model = getattr(transformers, sys.argv[1]).from_pretrained(sys.argv[2]).eval()
tokens = torch.from_numpy(np.load(sys.argv[3]))
with torch.no_grad():
    np.save(sys.argv[4], model(input_ids=tokens).logits.numpy())
    if len(sys.argv) > 5:
        np.save(sys.argv[5], model.generate(tokens, max_new_tokens=4, do_sample=False).numpy())
"""


def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(LLAMA).eval()


def in_a_fresh_process(model, folder):
    model.save_pretrained(folder / "small")
    np.save(folder / "tokens.npy", TOKENS.numpy())
    names = [str(folder / name) for name in ("small", "tokens.npy", "out.npy", "said.npy")]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, type(model).__name__, *names], check=True
    )
    return np.load(names[2]), np.load(names[3])


def test_narrower_feed_forwards_go_round_by_save_pretrained(tmp_path):
    model = llama()
    skip = [
        group.name
        for group in sec.trace(model, {"input_ids": TOKENS}).groups
        if "mlp" not in group.name
    ]
    result = sec.prune(model, {"input_ids": TOKENS}, amount=0.25, skip=skip, uniform=True)
    small = result.model
    assert small.config.intermediate_size == small.model.layers[0].mlp.gate_proj.out_features < 48
    assert model.config.intermediate_size == 48  # the user's is not touched
    logits, expected_tokens = in_a_fresh_process(small, tmp_path)
    with torch.no_grad():
        assert np.allclose(small(input_ids=TOKENS).logits.numpy(), logits, atol=1e-5)
        generated = small.generate(TOKENS, max_new_tokens=4, do_sample=False)
    assert np.array_equal(generated.numpy(), expected_tokens)


def test_heads_and_feed_forwards_together(tmp_path):
    model = llama()
    groups = sec.trace(model, {"input_ids": TOKENS}).groups
    positions = [g.name for g in groups if "q_proj" in g.name and len(g) != 4]
    result = sec.prune(
        model,
        {"input_ids": TOKENS},
        amount=0.5,
        uniform=True,
        skip=["model.embed_tokens", *positions],
    )
    assert result.model.config.num_attention_heads == 2
    assert result.model.config.intermediate_size < 48
    logits, _ = in_a_fresh_process(result.model, tmp_path)
    with torch.no_grad():
        assert np.allclose(result.model(input_ids=TOKENS).logits.numpy(), logits, atol=1e-5)


def test_widths_that_differ_are_recorded_and_loaded_by_our_own_loader(tmp_path, caplog):
    model = llama()
    network = sec.trace(model, {"input_ids": TOKENS})
    name = next(g.name for g in network.groups if "layers.1.mlp" in g.name)
    small = sec.apply(model, network.cut({name: [0, 1]}), {"input_ids": TOKENS})
    assert "from_pretrained cannot build it yet" in caplog.text
    assert small.config.intermediate_size == 48
    assert small.config.to_dict()["per_layer_config"] == {"1": {"intermediate_size": 46}}
    small.save_pretrained(tmp_path / "small")
    loaded = models.build(f"transformers:{tmp_path / 'small'}")
    assert sec.report_of(loaded).cut == sec.report_of(small).cut
    with torch.no_grad():
        expected = small(input_ids=TOKENS).logits
        assert torch.allclose(loaded(input_ids=TOKENS).logits, expected, atol=1e-5)
        assert torch.equal(
            loaded.generate(TOKENS, max_new_tokens=3, do_sample=False),
            small.generate(TOKENS, max_new_tokens=3, do_sample=False),
        )
    with pytest.raises(Exception, match=r"per-layer attribute|size"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small")


@pytest.fixture(scope="module")
def heads_and_feed_forwards():
    return sec.prune(
        llama(), {"input_ids": TOKENS}, amount=0.5, uniform=True, skip=["model.embed_tokens"]
    ).model


@pytest.mark.parametrize("cache", [None, "static", "offloaded", "offloaded_static"])
def test_every_kind_of_cache_generates_what_none_does(cache, heads_and_feed_forwards):
    small = heads_and_feed_forwards
    settings = {"max_new_tokens": 5, "do_sample": False}
    with torch.no_grad():
        plain = small.generate(TOKENS, use_cache=False, **settings)
        if cache is not None and cache.startswith("offloaded") and not torch.cuda.is_available():
            pytest.skip("moves layers to and from a GPU")
        cached = small.generate(TOKENS, use_cache=True, cache_implementation=cache, **settings)
    assert torch.equal(plain, cached)


@pytest.fixture(scope="module")
def sliding_window():
    config = transformers.MistralConfig(
        **{**LLAMA.to_dict(), "num_key_value_heads": 2}, sliding_window=4
    )
    torch.manual_seed(0)
    model = transformers.MistralForCausalLM(config).eval()
    return sec.prune(model, {"input_ids": TOKENS}, {"params": 0.6}, uniform=True).model


@pytest.mark.parametrize("cache", [None, "static", "quantized"])
def test_a_window_that_slides_generates_what_no_cache_does(cache, sliding_window):
    if cache == "quantized" and not any(map(importlib.util.find_spec, ("hqq", "optimum"))):
        pytest.skip("needs hqq or optimum-quanto")
    settings = {"max_new_tokens": 5, "do_sample": False}
    with torch.no_grad():
        plain = sliding_window.generate(TOKENS, use_cache=False, **settings)
        cached = sliding_window.generate(TOKENS, cache_implementation=cache, **settings)
    assert sliding_window.config.hidden_size < 32
    assert torch.equal(plain, cached)


def test_low_rank_adapters_by_hand_afterwards_equal_the_merged_model(heads_and_feed_forwards):
    small = copy.deepcopy(heads_and_feed_forwards)
    layer = small.model.layers[0].self_attn.q_proj
    torch.manual_seed(1)
    down, up = torch.randn(2, layer.in_features), 0.1 * torch.randn(layer.out_features, 2)
    handle = layer.register_forward_hook(lambda m, given, out: out + given[0] @ down.T @ up.T)
    with torch.no_grad():
        adapted = small(input_ids=TOKENS).logits
        handle.remove()
        plain = small(input_ids=TOKENS).logits
        layer.weight += up @ down
        merged = small(input_ids=TOKENS).logits
    assert not torch.allclose(adapted, plain, atol=1e-3)
    assert torch.allclose(adapted, merged, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_wraps_a_pruned_model_and_merges_to_the_same(heads_and_feed_forwards):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    settings = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False
    )
    wrapped = peft.get_peft_model(copy.deepcopy(heads_and_feed_forwards), settings).eval()
    with torch.no_grad():
        adapted = wrapped(input_ids=TOKENS).logits
        merged = wrapped.merge_and_unload()(input_ids=TOKENS).logits
        plain = heads_and_feed_forwards(input_ids=TOKENS).logits
    assert torch.allclose(adapted, merged, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-3)


DEPTHS = {
    "LlamaForCausalLM": (LLAMA, "model.layers", "num_hidden_layers"),
    "BertForMaskedLM": (
        transformers.BertConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
            num_attention_heads=4,
        ),
        "bert.encoder.layer",
        "num_hidden_layers",
    ),
    "GPT2LMHeadModel": (
        transformers.GPT2Config(
            vocab_size=50, n_embd=32, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=1
        ),
        "transformer.h",
        "n_layer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPTHS)
def test_whole_layers_are_removed_and_the_configuration_counts_the_rest(name, tmp_path):
    config, path, field = DEPTHS[name]
    config = type(config).from_dict({**config.to_dict(), field: 4})
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    example = {"input_ids": TOKENS}
    network = sec.trace(model, example)
    assert [block.name for block in network.blocks] == [f"{path}.{n}" for n in range(4)]
    cut = network.cut_of_blocks([f"{path}.0", f"{path}.2"])
    small = sec.apply(model, cut, example, network=network)
    assert getattr(small.config, field) == 2
    assert getattr(model.config, field) == 4
    assert sec.trace(small, example).cost() == cut.after
    with torch.no_grad():
        expected = small(**example).logits.numpy()
        by_hooks = _without(model, [f"{path}.0", f"{path}.2"], example)
    np.testing.assert_allclose(expected, by_hooks, atol=1e-5)
    small.save_pretrained(tmp_path / "small")
    np.save(tmp_path / "tokens.npy", TOKENS.numpy())
    names = [str(tmp_path / one) for one in ("small", "tokens.npy", "out.npy")]
    command = [sys.executable, "-W", "ignore", "-c", FRESH, name, *names]
    subprocess.run(command, check=True)
    np.testing.assert_allclose(np.load(names[2]), expected, atol=1e-5)
    sec.save(small, tmp_path / "small.safetensors")
    loaded = sec.load(model, tmp_path / "small.safetensors")
    assert getattr(loaded.config, field) == 2
    with torch.no_grad():
        np.testing.assert_array_equal(loaded.eval()(**example).logits.numpy(), expected)


def _without(model, layers, example):
    """What a model answers whose layers give back what they are given."""
    hooks = [
        model.get_submodule(layer).register_forward_hook(lambda _, given, output: given[0])
        for layer in layers
    ]
    try:
        return model(**example, use_cache=False).logits.numpy()
    finally:
        for hook in hooks:
            hook.remove()


def test_a_shorter_llama_goes_on_generating():
    model = llama()
    cut = sec.trace(model, {"input_ids": TOKENS}).cut_of_blocks(["model.layers.0"])
    small = sec.apply(model, cut, {"input_ids": TOKENS})
    made = [
        small.generate(TOKENS, max_new_tokens=5, do_sample=False, use_cache=cached).tolist()
        for cached in (True, False)
    ]
    assert made[0] == made[1]


def test_what_tokens_look_up_is_no_weight():
    """Its readers are filters and inputs, as they are in any other network."""
    network = sec.trace(llama(), {"input_ids": TOKENS})
    roles = network.tensors["model.layers.0.mlp.up_proj.weight"].roles
    assert [roles[axis].value for axis in (0, 1)] == ["filter", "input"]
    layers = {c.layer for c in network.contractions}
    assert "model.layers.0.mlp.up_proj" in layers
    assert "model.embed_tokens" not in layers


def test_experts_keep_widths_that_grouped_products_take():
    """Their rows have to begin at multiples of 16 bytes: of four numbers."""
    config = transformers.MixtralConfig(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, num_local_experts=4,
        num_experts_per_tok=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config).eval()
    example = {"input_ids": TOKENS, "use_cache": False}
    result = sec.prune(model, example, amount=0.4, floor=1)
    experts = result.model.model.layers[0].mlp.experts
    assert all(size % 4 == 0 for size in experts.down_proj.shape[1:])
    assert experts.down_proj.shape[2] < 40
    assert result.report.proof.holds


def test_heads_and_the_positions_that_are_turned_together_are_told_apart():
    """Four heads of eight: as many heads as pairs of positions; all layers share these pairs."""
    config = type(LLAMA).from_dict({**LLAMA.to_dict(), "head_dim": 8})
    network = sec.trace(transformers.LlamaForCausalLM(config).eval(), {"input_ids": TOKENS})
    weight = "model.layers.1.self_attn.q_proj.weight"
    rows = {
        group.name: network.cut({group.name: [1]}).tensors[weight].removed.get(0, ())
        for group in network.groups
        if "self_attn" in group.name and weight in network.cut({group.name: [1]}).tensors
    }
    heads, pairs = tuple(range(8, 16)), tuple(range(1, 32, 4))
    assert sorted(rows.values()) == sorted([heads, pairs])


TEXTS = ["a b c", "c b", "a", "b a d c a"]


def tokenizer():
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds

    words = Tokenizer(kinds.WordLevel({"[PAD]": 0, "a": 1, "b": 2, "c": 3, "?": 4}, "?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")  # noqa: S106


def test_texts_calibrate_a_model_by_its_tokenizer():
    batch = data.from_texts(TEXTS, tokenizer(), length=4)
    assert batch["input_ids"].tolist()[1] == [3, 2, 0, 0]
    assert batch["input_ids"].tolist()[3] == [2, 1, 4, 3]  # an unknown word, and what is too long
    inputs = {"input_ids": batch["input_ids"]}
    network = sec.trace(llama(), {name: torch.tensor(rows[:1]) for name, rows in inputs.items()})
    scores = sec.score(
        network, "taylor", data={**inputs, "labels": batch["input_ids"]}, task="language-modelling"
    )
    assert all(np.isfinite(values).all() for values in scores.values())
    assert max(values.max() for values in scores.values()) > 0


def test_masks_with_padding_are_replayed():
    """Taylor's scores of padded texts, by gradients of the weights that read each channel."""
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 7:], mask[1, 4:] = 0, 0
    given, labels = {"input_ids": TOKENS, "attention_mask": mask}, torch.tensor([0, 1])

    def loss(outputs, labels):
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="none")

    network = sec.trace(model, given)
    name = "bert.encoder.layer.0.intermediate.dense"
    found = sec.score(network, "taylor", data=(given, labels), loss=loss)[name]
    reader = model.bert.encoder.layer[0].output.dense.weight
    slopes = []
    for row in range(2):
        rows = {key: value[row : row + 1] for key, value in given.items()}
        (slope,) = torch.autograd.grad(loss(model(**rows), labels[row : row + 1]).sum(), reader)
        slopes.append((slope * reader).sum(0))
    by_hand = torch.stack(slopes).abs().mean(0).detach().numpy()
    squares = torch.stack(slopes).square().mean(0).detach().numpy()
    assert np.allclose(found, by_hand, rtol=1e-3) or np.allclose(found, squares, rtol=1e-3)


@pytest.mark.parametrize("texts", ["a b", [], [1]])
def test_invalid_texts_are_refused(texts):
    with pytest.raises(sec.DataError, match="expected a list of texts"):
        data.from_texts(texts, tokenizer())
    with pytest.raises(sec.DataError, match="expected a tokenizer"):
        data.from_texts(TEXTS, 3)


def test_a_heads_own_numbered_layers_are_none_of_the_configurations():
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=[32, 32], patch_size=8, num_detection_tokens=5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.YolosForObjectDetection(config).eval()
    used = ["logits", "pred_boxes"]
    result = sec.prune(model, {"pixel_values": torch.randn(1, 3, 32, 32)}, amount=0.5, outputs=used)
    assert result.report.proof.holds
    assert set(map(int, result.model.config.to_dict()["per_layer_config"])) == {0, 1}


def test_a_configuration_that_counts_no_layers_is_cut_all_the_same():
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    model = ResNetForImageClassification(ResNetConfig(**sizes, num_channels=3)).eval()
    result = sec.prune(model, torch.rand(1, 3, 32, 32), sec.Budget(channels=0.5))
    assert result.model.resnet.embedder.embedder.convolution.out_channels == 4


def test_layers_and_widths_that_went_in_one_cut_are_read_back_in_a_fresh_process(tmp_path):
    torch.manual_seed(0)
    config = copy.deepcopy(LLAMA)
    config.num_hidden_layers = 4
    model = transformers.LlamaForCausalLM(config).eval()
    inputs = {"input_ids": TOKENS}
    network = sec.trace(model, inputs)
    feed_forwards = [group.name for group in network.groups if "mlp" in group.name]
    cut = network.cut({name: range(24) for name in feed_forwards}, ["model.layers.1"])
    small = sec.apply(model, cut, inputs, network=network, proof="independent")
    assert small.config.num_hidden_layers == 3
    assert small.config.intermediate_size == 24
    answers, _ = in_a_fresh_process(small, tmp_path)
    with torch.no_grad():
        np.testing.assert_allclose(answers, small(**inputs).logits.numpy(), atol=1e-5)
        del model.model.layers[1]
        for number, layer in enumerate(model.model.layers):
            layer.self_attn.layer_idx = number
            layer.mlp.down_proj.weight[:, :24] = 0
        model.config.num_hidden_layers = 3
        np.testing.assert_allclose(answers, model(**inputs).logits.numpy(), atol=1e-5)


def test_layers_of_different_widths_are_not_searched_for_in_the_configuration(monkeypatch):
    built = []
    init = transformers.LlamaForCausalLM.__init__
    monkeypatch.setattr(
        transformers.LlamaForCausalLM,
        "__init__",
        lambda model, config: (built.append(config), init(model, config))[1],
    )
    model, inputs = llama(), {"input_ids": TOKENS}
    network = sec.trace(model, inputs)
    mlps = [group.name for group in network.groups if "mlp" in group.name]
    built.clear()
    small = sec.apply(model, network.cut({mlps[0]: [0, 1], mlps[1]: [0]}), inputs, network=network)
    assert [layer.mlp.up_proj.out_features for layer in small.model.layers] == [46, 47]
    assert not built
    sec.apply(model, network.cut({mlps[0]: [0, 1], mlps[1]: [0, 5]}), inputs, network=network)
    assert built  # layers that are alike may have a field for it
