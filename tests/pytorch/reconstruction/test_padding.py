"""Padding of texts is excluded: its values change nothing that is fitted."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.reconstruction import dense_sums
from secateurs.reconstruction import contraction_sums

LENGTHS = np.array([3, 7, 5, 8, 2, 6, 8, 4] * 8)
PRESENT = np.arange(8) < LENGTHS[:, None]


class Texts(nn.Module):
    """Each word by itself; the mean of those that are there."""

    def __init__(self, taps=1):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.first = nn.Embedding(50, 12), nn.Linear(12, 16)
        self.second, self.head = nn.Linear(16, 12), nn.Linear(12, 4)
        if taps > 1:
            self.second = nn.Conv1d(16, 12, taps, padding="same")
        self.taps = taps

    def forward(self, input_ids, attention_mask):
        hidden = torch.relu(self.first(self.embed(input_ids)))
        if self.taps > 1:
            hidden = self.second(hidden.transpose(1, 2)).transpose(1, 2)
        else:
            hidden = self.second(hidden)
        marks = attention_mask[..., None].to(hidden.dtype)
        return self.head((hidden * marks).sum(1) / marks.sum(1))


def texts(filling):
    words = np.random.default_rng(0).integers(0, 40, PRESENT.shape)
    ids = np.where(PRESENT, words, filling)
    return {"input_ids": ids, "attention_mask": PRESENT.astype(np.int64)}


def first(data):
    return {name: torch.from_numpy(values[:2]) for name, values in data.items()}


# Patches; patches of one value for each channel; channels mixed.
@pytest.mark.parametrize(("widest", "taps"), [(contraction_sums.MOST_INPUTS, 1), (8, 1), (8, 3)])
def test_sums_of_a_padded_text_leave_the_padding_out(widest, taps, monkeypatch):
    monkeypatch.setattr(contraction_sums, "MOST_INPUTS", widest)
    data = texts(49)
    model = Texts(taps).eval()
    network = sec.trace(model, first(data))
    found = dense_sums.contractions_of(network, CalibrationBatch(data, None), "relative", 0)
    reader = next(one for one in found if one.weight == "second.weight")
    with torch.no_grad():
        hidden = torch.relu(model.first(model.embed(torch.from_numpy(data["input_ids"]))))
    words = hidden.numpy()[PRESENT].astype(np.float64)
    np.testing.assert_allclose(reader.moments.mean_u[0], words.mean(0), atol=1e-5)
    about = words - words.mean(0)
    np.testing.assert_allclose(reader.moments.uu[0], about.T @ about, rtol=1e-4, atol=1e-3)
    assert reader.moments.rows == PRESENT.sum()
    assert reader.mixes == (taps == 3)


def test_values_in_the_padding_change_no_repaired_weight():
    made = []
    for filling in (49, 41):
        data = texts(filling)
        pruned = sec.prune(
            Texts().eval(), first(data), sec.Budget(params=0.8), calibration=data, seed=0
        )
        made.append(pruned.model.state_dict())
    rows = [name for name in made[0] if not name.startswith("embed")]
    for name in rows:
        torch.testing.assert_close(made[0][name], made[1][name])


def test_two_masks_of_one_length_that_differ_say_nothing():
    images = {"attention_mask": PRESENT, "decoder_attention_mask": ~PRESENT}
    assert CalibrationBatch(images, None).present_places == {}
    assert CalibrationBatch({"attention_mask": np.ones((3, 4))}, None).present_places == {}
    assert list(CalibrationBatch({"padding_mask": PRESENT}, None).present_places) == [8]
    assert CalibrationBatch(np.ones((3, 4)), None).present_places == {}
