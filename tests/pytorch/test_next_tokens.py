import numpy as np
import pytest
import torch

import torchvision_on_cpu  # noqa: F401 - before transformers
from secateurs.pytorch import next_scores

transformers = pytest.importorskip("transformers")


def llama():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=50, max_position_embeddings=32, **shape, **heads)
    )
    return model.train()


def test_a_model_that_keeps_what_was_before_gives_what_a_whole_pass_gives():
    model = llama()
    texts = np.random.default_rng(0).integers(50, size=(3, 8))
    with torch.inference_mode():
        whole = model.eval()(torch.from_numpy(texts)).logits.numpy()
    score = next_scores(model.train())
    for places in range(1, 9):
        assert np.allclose(score(texts[:, :places]), whole[:, places - 1], atol=1e-5)
    assert model.training


def test_it_is_asked_for_one_place_at_a_time():
    model, seen = llama(), []
    model.model.embed_tokens.register_forward_hook(lambda *a: seen.append(tuple(a[2].shape[:2])))
    score = next_scores(model)
    for places in range(1, 4):
        score(np.zeros((2, places), np.int64))
    assert seen == [(2, 1)] * 3


def test_a_model_in_training_is_read_in_eval_mode_and_never_switched():
    """It may answer in another thread meanwhile: a copy that shares its tensors is run."""
    torch.manual_seed(0)
    parts = torch.nn.Embedding(6, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 6)
    model, seen = torch.nn.Sequential(*parts).train(), []
    model[0].register_forward_hook(lambda *_: seen.append(model.training))
    texts = np.array([[1, 4], [2, 0]])
    expected = (parts[0].weight[texts[:, -1]] @ parts[2].weight.T + parts[2].bias).detach().numpy()
    assert np.allclose(next_scores(model)(texts), expected, atol=1e-6)
    assert seen == [True]
