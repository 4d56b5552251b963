"""Which fields of a configuration reduce which groups."""

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
    fields = set().union(*(move.fields for move in moves))
    assert fields == {
        "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"
    }  # fmt: skip


def test_steps_leave_what_the_operations_take():
    """Mixtral's experts are multiplied together, in rows of whole multiples of 4 numbers."""
    config = transformers.MixtralConfig(**TEXT, num_key_value_heads=2, num_local_experts=2)
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config).eval()
    network = sec.trace(model, {"input_ids": TOKENS})
    moves = find_moves(network, network.source.configuration())
    first = {name: value for move in moves for name, value in move.levels[0].items()}
    assert (first["hidden_size"], first["intermediate_size"]) == (28, 44)


def test_an_untrained_bert_keeps_its_heads_width_and_is_loaded_elsewhere(tmp_path):
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**TEXT)).eval()
    small = sec.prune(model, {"input_ids": TOKENS}, sec.Budget(channels=0.5), uniform=True).model
    config = small.config
    assert config.hidden_size // config.num_attention_heads == 32 // 4
    small.save_pretrained(tmp_path)
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, small(TOKENS).logits)
