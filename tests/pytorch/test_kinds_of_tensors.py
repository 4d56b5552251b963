"""Models in other precisions, with channels last in memory, and on the meta device."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import secateurs as sec

LABELS = torch.tensor([0, 1])
ON_WEIGHTS = ["l1", "bn_scale", "lamp", "geometric_median"]
ON_DATA = ["taylor", "obd", "apoz", "oracle", "fluctuation"]


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


def images():
    """Two that are far from each other, so that what varies between them is no rounding."""
    drawn = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return drawn * torch.tensor([0.2, 3.0])[:, None, None, None]


def scores(network, data):
    plain = {name: sec.score(network, name) for name in ON_WEIGHTS}
    return plain | {name: sec.score(network, name, data=[data]) for name in ON_DATA}


@pytest.mark.parametrize(
    ("how", "off"),
    [
        (torch.float64, 1e-3),
        (torch.float16, 0.02),
        (torch.bfloat16, 0.15),
        (torch.channels_last, 1e-3),
    ],
)
def test_scores_and_cuts_are_those_of_single_precision(how, off):
    layout = {"memory_format" if how is torch.channels_last else "dtype": how}
    model, x = convolutions().to(**layout), images().to(**layout)
    network, plain = sec.trace(model, x), sec.trace(convolutions(), images())
    found, expected = scores(network, (x, LABELS)), scores(plain, (images(), LABELS))
    step = 2 * torch.finfo(next(model.parameters()).dtype).eps  # a loss of about 1.4 moves in these
    for name, score in expected.items():
        for group, values in score.items():
            near = torch.from_numpy(values).abs().max() * off + step * (name in ON_DATA)
            difference = torch.from_numpy(found[name][group] - values).abs().max()
            assert difference <= near, (name, group)
    cut = sec.plan(plain, expected["l1"], amount=0.5)
    small = sec.apply(model, cut, x, network=network, proof="independent")
    assert sec.report_of(small).proof.holds
    whole = sec.apply(convolutions(), cut, images())
    for ours, theirs in zip(small.parameters(), whole.parameters(), strict=True):
        assert ours.dtype == next(model.parameters()).dtype
        assert torch.equal(ours, theirs.to(ours.dtype))
    is_last = small[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert is_last == (how is torch.channels_last)


@pytest.mark.parametrize("inputs", ["cpu", "meta"])
def test_without_values_shapes_are_cut_and_what_needs_values_is_refused(inputs):
    model, x = convolutions().to("meta"), images().to(inputs)
    network = sec.trace(model, x)
    assert network.params() == sec.trace(convolutions(), images()).params()
    for name in ON_WEIGHTS + ON_DATA:
        with pytest.raises(sec.ModelError, match=r"0\.weight: .* needs values; .* meta") as caught:
            sec.score(network, name, **({"data": [(images(), LABELS)]} if name in ON_DATA else {}))
        assert "\n" not in str(caught.value)
    cut = sec.plan(network, sec.score(network, "random"), amount=0.5)
    for proof in (True, "independent"):
        with pytest.raises(sec.ModelError, match=r"the proof needs values; .*proof=False"):
            sec.apply(model, cut, x, network=network, proof=proof)
    small = sec.apply(model, cut, x, network=network, proof=False)
    assert all(tensor.is_meta for tensor in small.parameters())
    assert small[0].weight.shape == (4, 3, 3, 3)
    filled = small.to_empty(device="cpu")
    whole = sec.apply(convolutions(), cut, images())
    filled.load_state_dict(whole.state_dict())
    assert torch.equal(filled(images()), whole(images()))


def test_inputs_without_values_prove_nothing():
    model = convolutions()
    network = sec.trace(model, images())
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5)
    with pytest.raises(sec.ModelError, match="example_inputs: the proof needs values"):
        sec.apply(model, cut, images().to("meta"), network=network)


def test_a_model_that_takes_one_number_of_images_alone_says_so():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.first(x) + torch.ones(4, 1))

    network = sec.trace(Fixed(), torch.rand(4, 4))
    data = [(torch.rand(4, 4), torch.tensor([0, 1, 2, 0]))]
    for name in ON_DATA:
        with pytest.raises(sec.DataError, match=r"calibration data: .*RuntimeError") as caught:
            sec.score(network, name, data=data)
        assert "\n" not in str(caught.value)


def test_an_answer_of_a_users_data_class_is_proven_and_repaired():
    @dataclass
    class Answer:
        logits: torch.Tensor
        loss: torch.Tensor | None = None

    class Answering(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x):
            return Answer(self.head(self.body(x).relu()))

    torch.manual_seed(0)
    model, rows = Answering().eval(), torch.randn(128, 6)
    result = sec.prune(
        model, rows[:1], amount=0.5, calibration=rows, proof="independent", outputs="logits"
    )
    gone = list(result.cut.tensors["head.weight"].removed[1])
    assert len(gone) == 8
    assert result.report.proof.max_difference < 1e-5
    assert result.report.fidelity.kept in ("dropped", "repaired")
    small = sec.apply(model, result.cut, rows[:1])
    with torch.no_grad():
        model.head.weight[:, gone] = 0
        torch.testing.assert_close(small(rows).logits, model(rows).logits)
