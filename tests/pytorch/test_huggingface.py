"""Transformers models go out by save_pretrained and come back in a fresh process."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before transformers

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
    logits, said = in_a_fresh_process(small, tmp_path)
    with torch.no_grad():
        assert np.allclose(small(input_ids=TOKENS).logits.numpy(), logits, atol=1e-5)
        own = small.generate(TOKENS, max_new_tokens=4, do_sample=False)
    assert np.array_equal(own.numpy(), said)


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


def test_widths_that_differ_are_said_to_be_beyond_the_configuration(caplog):
    model = llama()
    name = next(
        g.name for g in sec.trace(model, {"input_ids": TOKENS}).groups if "layers.1.mlp" in g.name
    )
    network = sec.trace(model, {"input_ids": TOKENS})
    small = sec.apply(model, network.cut({name: [0, 1]}), {"input_ids": TOKENS})
    assert "from_pretrained cannot build it" in caplog.text
    assert small.config.intermediate_size == 48
