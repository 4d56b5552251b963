from types import SimpleNamespace

import pytest
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before Transformers imports it
from secateurs.channels.cut import Cut
from secateurs.pytorch.configurations import (
    change_fields,
    configuration_of,
    rebuild,
    set_fields_,
)
from secateurs.pytorch.surgery.slicing import cut_copy

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    return model, configuration_of(model, torch.arange(6)[None])


def test_only_a_transformers_model_has_one():
    assert configuration_of(nn.Linear(2, 2), None) is None


def test_its_numbers_are_what_may_be_widths(bert):
    _, configuration = bert
    numbers = configuration.numbers
    assert {numbers[name] for name in ("hidden_size", "intermediate_size")} == {8, 12}
    assert numbers["num_attention_heads"] == 2
    assert all(not isinstance(value, bool) for value in numbers.values())


def test_shapes_are_those_that_would_be_built(bert):
    model, configuration = bert
    built = configuration.shapes({"intermediate_size": 9})
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=9,
    )
    real = transformers.BertForSequenceClassification(config)
    assert built == {name: tuple(t.shape) for name, t in real.state_dict().items()}
    assert configuration.shapes({}) == {n: tuple(t.shape) for n, t in model.state_dict().items()}
    assert configuration.shapes({"num_attention_heads": 3}) is None  # 8 are not divided by 3


def test_what_it_rebuilds_answers_as_the_model_does(bert):
    _, configuration = bert
    assert configuration.rebuilds(Cut(), {})
    assert not configuration.rebuilds(Cut(), {"intermediate_size": 9})


def test_heads_of_another_width_are_not_believed_where_attention_is_hardly_trained(bert):
    """Scores are divided by the root of the heads' width: that of 4 here, of 3 where rebuilt."""
    model, configuration = bert
    sizes = {"hidden_size": 6}
    network = sec.trace(model, torch.arange(6)[None])
    ends = ("head_width", "word_embeddings", "pooler.dense")
    ways = [group.name for group in network.groups if group.name.endswith(ends)]
    cut = network.cut({name: range(len(network.group(name)) // 4) for name in ways})
    small = cut_copy(model, cut).eval()
    rebuilt = rebuild(small, change_fields(model.config, sizes))
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        near = float((small(tokens).logits - rebuilt(tokens).logits).abs().max())
    assert near < 1e-5  # untrained, as it is
    assert not configuration.rebuilds(cut, sizes)


def test_fields_inside_others_and_in_lists_are_changed():
    config = SimpleNamespace(a=SimpleNamespace(sizes=[4, 8]), b=2)
    set_fields_(config, {"a.sizes.1": 6, "b": 3})
    assert (config.a.sizes, config.b) == ([4, 6], 3)
    config = transformers.BertConfig(hidden_size=8, num_attention_heads=2)
    changed = change_fields(config, {"hidden_size": 6})
    assert (changed.hidden_size, config.hidden_size) == (6, 8)
