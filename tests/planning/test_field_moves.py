"""Which fields of a configuration narrow which groups."""

import pytest
import torch

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before transformers
from secateurs.planning.field_moves import find_moves

transformers = pytest.importorskip("transformers")


TOKENS = torch.arange(1, 13).reshape(2, 6)


TEXT = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 40,
}  # fmt: skip


def test_positions_that_are_turned_by_their_place_are_no_move():
    """A Llama of narrower heads would turn what is left by other angles."""
    config = transformers.LlamaConfig(**TEXT, num_key_value_heads=2, head_dim=8)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    network = sec.trace(model, {"input_ids": TOKENS})
    moves = find_moves(network, network.source.configuration())
    said = set().union(*(move.fields for move in moves))
    assert said == {
        "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"
    }  # fmt: skip
