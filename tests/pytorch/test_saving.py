"""Files: what goes in comes out, and what is damaged or foreign is refused."""

import os
import pickle

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.channels.file_size import predicted_file_size


class Tied(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.b = nn.Linear(width, width)
        self.c = nn.Linear(width, width)
        self.c.weight = self.b.weight
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x))).mean((2, 3))
        return self.head(F.relu(self.c(F.relu(self.b(x)))))


def x():
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def small():
    model = Tied()
    for _ in range(3):
        model(x())  # moves the running statistics
    return sec.delete_channels(model, {"a": [1, 4]}, x())


def test_a_cut_model_comes_back_bit_for_bit(small, tmp_path):
    path = tmp_path / "small.safetensors"
    sec.save(small, path)
    loaded = sec.load(Tied(), path)
    assert all(
        torch.equal(value, small.state_dict()[k]) for k, value in loaded.state_dict().items()
    )
    assert loaded.c.weight is loaded.b.weight
    assert loaded.norm.num_features == 4
    assert sec.report_of(loaded).cut == sec.report_of(small).cut
    inputs = x()
    assert torch.equal(loaded.eval()(inputs), small.eval()(inputs))


def test_it_can_be_cut_and_saved_again(small, tmp_path):
    sec.save(small, tmp_path / "one.safetensors")
    loaded = sec.load(Tied(), tmp_path / "one.safetensors")
    smaller = sec.delete_channels(loaded, {"a": [0]}, x())
    sec.save(smaller, tmp_path / "two.safetensors")
    again = sec.load(Tied(), tmp_path / "two.safetensors")
    assert again.a.out_channels == 3
    assert sec.report_of(again).cut.channels["a"].removed == (0, 1, 4)


def test_any_reader_of_safetensors_reads_it(small, tmp_path):
    path = tmp_path / "small.safetensors"
    sec.save(small, path)
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("a.weight"), small.a.weight)
        assert sec.Cut.from_json(file.metadata()["secateurs"]) == sec.report_of(small).cut


def test_the_size_is_known_before_the_file_is_written(tmp_path):
    model = Tied(16)
    network = sec.trace(model, x())
    for cut in (sec.Cut(), network.cut({"a": [1, 4, 7]})):
        small = sec.apply(model, cut, x(), network=network, proof=False)
        sec.save(small, tmp_path / "model.safetensors")
        assert os.path.getsize(tmp_path / "model.safetensors") == predicted_file_size(network, cut)


def test_a_dense_model_and_a_plain_checkpoint_load_too(tmp_path):
    model = Tied()
    sec.save(model, tmp_path / "dense.safetensors")
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "wrapped.pt")
    for name in ("dense.safetensors", "dense.pt", "wrapped.pt"):
        loaded = sec.load(Tied(), tmp_path / name)
        assert torch.equal(loaded.b.weight, model.b.weight)


def test_pickled_models_are_refused(tmp_path):
    torch.save(Tied(), tmp_path / "whole.pt")
    with pytest.raises(
        sec.CheckpointError, match=r"weights_only=True.*Save the model's state_dict"
    ):
        sec.load(Tied(), tmp_path / "whole.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"a": os.getcwd}))
    with pytest.raises(sec.CheckpointError):
        sec.load(Tied(), tmp_path / "evil.pt")


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_damaged_files_are_refused_by_name(small, tmp_path, damage):
    path = tmp_path / "small.safetensors"
    sec.save(small, path)
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    with pytest.raises(sec.CheckpointError, match=r"small\.safetensors: expected a safetensors"):
        sec.load(Tied(), path)
    with pytest.raises(sec.CheckpointError, match="cannot be read"):
        sec.load(Tied(), tmp_path / "absent.safetensors")


def test_foreign_files_are_refused_with_what_does_not_fit(small, tmp_path):
    path = tmp_path / "small.safetensors"
    sec.save(small, path)
    with pytest.raises(sec.CutError, match=r"a\.weight: expected shape \(6, 3, 3, 3\)"):
        sec.load(Tied(8), path)
    sec.save(nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(sec.CheckpointError, match=r"missing: a\.weight"):
        sec.load(Tied(), tmp_path / "other.safetensors")
    sec.save(Tied(8), tmp_path / "wide.safetensors")
    with pytest.raises(sec.CheckpointError, match=r"a\.weight: expected shape \(6, 3, 3, 3\)"):
        sec.load(Tied(6), tmp_path / "wide.safetensors")
