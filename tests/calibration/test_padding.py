"""Padded texts: which row a model is traced with, and that a mask hides nothing."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.padding import example_with_padding, hidden_rows
from secateurs.errors import DataError

TOKENS = torch.arange(1, 49).reshape(8, 6) % 11
MASK = torch.ones(8, 6, dtype=torch.long)
MASK[5, 4:] = 0
TEXTS = {"input_ids": TOKENS, "attention_mask": MASK}
PLAIN = {"input_ids": TOKENS[:1]}


class SkipsMasks(nn.Module):
    """A language model that leaves out a mask which hides nothing, as Transformers' do."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 16)
        self.head = nn.Linear(16, 11)

    def forward(self, input_ids, attention_mask=None):
        x = self.embedding(input_ids)
        scores = x @ x.transpose(1, 2)
        if attention_mask is not None and not attention_mask.bool().all():
            scores = scores.masked_fill(~attention_mask.bool()[:, None, :], -1e9)
        return self.head(torch.relu(self.mix(scores.softmax(-1) @ x)))


class Counts(nn.Module):
    """A model whose other path gives another answer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids):
        x = self.embedding(input_ids).mean(1)
        if bool((input_ids > 5).any()):
            x = x * 2
        return self.head(torch.relu(x))


def test_hidden_rows_are_those_of_which_a_mask_hides_something():
    assert hidden_rows(TEXTS).tolist() == [5]
    assert hidden_rows(PLAIN).tolist() == []
    decoder = {**TEXTS, "decoder_attention_mask": np.array([[1, 0]] + [[1, 1]] * 7)}
    assert hidden_rows(decoder).tolist() == [0, 5]


@pytest.mark.parametrize(
    "data",
    [
        TEXTS,
        (TEXTS, torch.zeros(8)),
        [{name: value[i : i + 2] for name, value in TEXTS.items()} for i in range(0, 8, 2)],
        {**TEXTS, "labels": TOKENS},
    ],
    ids=["a dictionary", "with labels beside", "batches", "with labels inside"],
)
@pytest.mark.parametrize("given", [PLAIN, TOKENS[:1], {**PLAIN, "attention_mask": MASK[:1]}, None])
def test_a_padded_row_replaces_the_example(data, given):
    found = example_with_padding(given, data)
    assert found.keys() == TEXTS.keys()
    assert torch.equal(found["input_ids"], TOKENS[5:6])
    assert torch.equal(found["attention_mask"], MASK[5:6])


def test_sufficient_examples_are_kept():
    padded = {"input_ids": TOKENS[5:6], "attention_mask": MASK[5:6]}
    assert example_with_padding(padded, TEXTS) is padded
    images = torch.zeros(1, 3)
    assert example_with_padding(images, (torch.zeros(9, 3), torch.zeros(9))) is images
    assert example_with_padding(PLAIN, {"input_ids": TOKENS}) is PLAIN
    longer = {"input_ids": torch.ones(1, 9, dtype=torch.long)}
    assert example_with_padding(longer, TEXTS) is longer  # the shapes are told by whoever checks
    assert example_with_padding(PLAIN, iter([TEXTS])) is PLAIN  # a look would use it up


def test_a_mask_that_hides_nothing_is_shown_where_the_example_lacks_it():
    whole = {"input_ids": TOKENS, "attention_mask": torch.ones_like(MASK)}
    assert example_with_padding(PLAIN, whole)["attention_mask"].tolist() == [[1] * 6]


@pytest.mark.parametrize("rows", [slice(None), slice(0, 4)], ids=["some padding", "no padding"])
def test_a_model_traced_with_padding_takes_texts_with_and_without(rows):
    torch.manual_seed(0)
    model = SkipsMasks()
    network = sec.trace(model, {"input_ids": TOKENS[5:6], "attention_mask": MASK[5:6]})
    texts = {name: value[rows] for name, value in TEXTS.items()}
    found = sec.score(network, "taylor", data=texts, task="language-modelling")
    # By hand: |gradient times value| of each channel of the hidden layer, summed over places.
    inside, wanted = {}, []
    for ids, mask in zip(texts["input_ids"], texts["attention_mask"], strict=True):
        hook = model.mix.register_forward_hook(lambda *a: inside.update(x=a[2]) or a[2])
        given = model(ids[None], mask[None])[0]
        hook.remove()
        labels = torch.where(mask > 0, ids, -100)
        loss = nn.functional.cross_entropy(given[:-1], labels[1:], ignore_index=-100)
        (slope,) = torch.autograd.grad(loss, inside["x"])
        wanted.append((slope * inside["x"]).sum((0, 1)).detach().abs())
    assert found["mix"] == pytest.approx(torch.stack(wanted).mean(0).numpy(), rel=1e-3, abs=1e-6)


def test_another_path_with_another_answer_is_refused():
    network = sec.trace(Counts(), torch.ones(1, 6, dtype=torch.long))
    with pytest.raises(
        sec.DataError, match=r"depends on a value that differs.*padded.*secateurs\.trace\("
    ):
        sec.score(network, "apoz", data=torch.full((8, 6), 9))


def test_a_trace_without_the_mask_is_told_how_to_trace():
    network = sec.trace(SkipsMasks(), PLAIN)
    with pytest.raises(sec.DataError, match=r"1 inputs \(input_ids\).*2 inputs \(input_ids, att.*"):
        sec.score(network, "taylor", data=TEXTS, task="language-modelling")


def test_pruning_and_the_loop_trace_padded_texts_anew():
    torch.manual_seed(0)
    model = SkipsMasks()
    with pytest.warns(UserWarning, match="few"):
        pruned = sec.prune(model, PLAIN, "channels=0.5", calibration=TEXTS)
    given = {name: value[3:] for name, value in TEXTS.items()}
    assert pruned.cut.after.channels == 12
    assert pruned.model(**given).shape == (5, 6, 11)
    training = sec.Training(batches=1, fine_tune_batches=1)
    stop = sec.Stop(rounds=1, tolerance=None)
    found = sec.iterate(
        model, TEXTS, TEXTS, task="language-modelling", criterion="taylor", step=0.5, stop=stop,
        training=training,
    )  # fmt: skip
    assert found.model.mix.out_features < 16


class PathOfOne(nn.Module):
    """As Transformers' language models: positions are expanded only where texts are several."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(6, 8)
        self.inner, self.head = nn.Linear(8, 16), nn.Linear(16, 20)

    def forward(self, input_ids):
        places = torch.arange(input_ids.shape[1])[None]
        if len(input_ids) > 1:
            places = places.expand(len(input_ids), -1)
        hidden = self.words(input_ids) + self.places(places)
        return self.head(torch.relu(self.inner(hidden)))


def test_calibration_texts_go_with_an_example_of_one():
    texts = torch.from_numpy(np.random.default_rng(0).integers(0, 20, (160, 6)))
    model = PathOfOne().eval()
    made = sec.prune(model, texts[:1], sec.Budget(params=0.8), calibration=texts)
    assert made.report.fidelity["repaired"].distance < made.report.fidelity["dropped"].distance
    raw = sec.prune(model, texts[:1], sec.Budget(params=0.8), repair=False, calibration=texts)
    repaired = sec.repair(raw.model, model, texts)
    assert sec.report_of(repaired).fidelity.kept == "repaired"
    with pytest.raises(DataError, match="and with two examples, not one"):
        sec.score(sec.trace(model, texts[:1]), "apoz", data=texts)


def test_few_texts_are_called_texts():
    texts = torch.from_numpy(np.random.default_rng(0).integers(0, 20, (40, 6)))
    with pytest.warns(UserWarning, match="40 calibration texts are few.* any texts of the kind"):
        sec.prune(PathOfOne().eval(), texts[:1], sec.Budget(params=0.8), calibration=texts)
