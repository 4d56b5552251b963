"""Wrapped models and parts of models: the cut applies to the weights wherever they are."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import secateurs as sec

IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
X = IMAGES[:2]
DATA = IMAGES, torch.arange(8) % 3


def _make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)).eval()


def _compile(model):
    return torch.compile(model, backend="eager")


def _add_checkpointing(model):
    module = pytest.importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    return module.checkpoint_wrapper(model)


class ModelEmaV3(nn.Module):
    """As timm's: it keeps the averaged model as ``module``, and has no forward of its own."""

    def __init__(self, model):
        super().__init__()
        self.module = copy.deepcopy(model)


WRAPPERS = [nn.DataParallel, _compile, AveragedModel, _add_checkpointing]


@pytest.fixture(scope="module")
def small():
    return sec.prune(_make(), X, amount=0.5).model


@pytest.mark.parametrize("wrap", [*WRAPPERS, ModelEmaV3])
def test_a_wrapped_model_is_saved_and_loaded_as_without_its_wrapper(wrap, small, tmp_path):
    sec.save(wrap(copy.deepcopy(small)), tmp_path / "small")
    assert sec.report_of(wrap(small)).cut == sec.report_of(small).cut
    for dense in (_make(), wrap(_make())):
        torch.testing.assert_close(sec.load(dense, tmp_path / "small")(X), small(X))


def _wrap_inside(wrap):
    """Parts of a model in wrappers of their own, one of them in two."""
    model = nn.Sequential(_make(), nn.Identity())
    model[0][0], model[0][3] = nn.DataParallel(wrap(model[0][0])), wrap(model[0][3])
    return model


@torch.no_grad()  # TorchDynamo warns of inputs that have a gradient to come
@pytest.mark.parametrize("wrap", [nn.DataParallel, _compile, _add_checkpointing])
def test_wrapped_parts_are_saved_and_loaded_as_without_their_wrappers(wrap, tmp_path):
    plain = nn.Sequential(_make(), nn.Identity())
    for number, dense in enumerate((plain, _wrap_inside(wrap))):
        small, path = sec.prune(dense, X, amount=0.5).model, tmp_path / str(number)
        sec.save(small, path)
        for model in (nn.Sequential(_make(), nn.Identity()), _wrap_inside(wrap)):
            loaded = sec.load(model, path)
            torch.testing.assert_close(loaded(X), small(X))
            again = sec.prune(loaded, X, amount=0.5).model
            sec.save(again, tmp_path / "again")
            torch.testing.assert_close(sec.load(plain, tmp_path / "again")(X), again(X))
    first, second = (load_file(tmp_path / name) for name in "01")
    assert first.keys() == second.keys() == plain.state_dict().keys()


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_model_is_trained_and_repaired_as_without_its_wrapper(wrap, small):
    study = {
        "step": 0.3,
        "training": sec.Training(fine_tune_batches=2, learning_rate=0.01),
        "stop": sec.Stop(rounds=1, tolerance=None),
    }
    with torch.random.fork_rng():
        expected = sec.iterate(_make(), DATA, DATA, **study).model
        given = sec.iterate(wrap(_make()), DATA, DATA, **study).model
    assert type(given) is nn.Sequential
    torch.testing.assert_close(given.state_dict(), expected.state_dict())
    images = torch.rand(64, 3, 8, 8)
    repaired = sec.repair(wrap(copy.deepcopy(small)), wrap(_make()), images)
    torch.testing.assert_close(repaired(X), sec.repair(small, _make(), images)(X))


class Detector(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.layers = nn.ModuleDict({"backbone": backbone})
        self.again = backbone  # under a second name
        self.head = nn.Linear(3, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return self.out(torch.relu(self.head(self.layers["backbone"](x))))


def test_a_part_that_was_cut_by_itself_is_saved_with_the_whole(small, tmp_path):
    torch.manual_seed(1)
    whole = Detector(small)
    cut = sec.report_of(whole).cut
    assert {name: c.removed for name, c in cut.tensors.items()} == {
        f"layers.backbone.{name}": c.removed for name, c in sec.report_of(small).cut.tensors.items()
    }
    sec.save(whole, tmp_path / "whole")
    loaded = sec.load(Detector(_make()), tmp_path / "whole")
    torch.testing.assert_close(loaded(X), whole(X))


def test_both_of_a_cut_whole_and_its_part_know_all_that_went(small, tmp_path):
    torch.manual_seed(1)
    whole = sec.prune(Detector(small), X, amount=0.4).model
    backbone = whole.layers["backbone"]
    assert backbone[0].out_channels < small[0].out_channels < 8
    for model, dense in ((whole, Detector(_make())), (backbone, _make())):
        sec.save(model, tmp_path / "model")
        torch.testing.assert_close(sec.load(dense, tmp_path / "model")(X), model(X))
    assert sec.report_of(small).cut.tensors["0.weight"].removed[0] != ()  # the part is as it was
    assert small[0].out_channels == 4


def _script(model):
    return torch.jit.script(model)


def _quantise(model):
    with warnings.catch_warnings():  # newer releases say that this is deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


@pytest.mark.parametrize("change", [_script, _quantise])
@pytest.mark.filterwarnings("ignore")  # PyTorch is about to drop both
def test_what_cannot_be_saved_is_refused_before_a_file_is_written(change, small, tmp_path):
    changed = change(copy.deepcopy(small))
    with pytest.raises(sec.ModelError, match="Prune or save the"):
        sec.save(changed, tmp_path / "file")
    assert not list(tmp_path.iterdir())
    sec.save(small, tmp_path / "file")
    with pytest.raises(sec.ModelError, match="Prune or save the"):
        sec.load(changed, tmp_path / "file")
    assert not sec.report_of(changed).cut or change is _quantise


class Two(nn.Module):
    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x):
        return self.one(x) + self.other(x)


def traceable():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def cut_model():
    return sec.prune(traceable().eval(), torch.ones(2, 6), amount=0.5).model


@pytest.mark.parametrize(
    ("make", "dense", "removed"),
    [
        (lambda: torch.fx.symbolic_trace(cut_model()), traceable, 14),
        (
            lambda: torch.fx.symbolic_trace(Two(cut_model(), cut_model())),
            lambda: Two(traceable(), traceable()),
            28,
        ),
        (
            lambda: nn.Sequential(nn.Sequential(*cut_model().children())),
            lambda: nn.Sequential(traceable()),
            14,
        ),
    ],
    ids=["fx", "fx of two", "the same layers elsewhere"],
)
def test_what_is_made_of_the_layers_of_a_cut_model_knows_its_cut(make, dense, removed, tmp_path):
    """8 of 16, 6 of 12 channels; torch.fx keeps the layers, and nothing of what held them."""
    small = make().eval()
    assert sec.report_of(small).cut.removed_channels == removed
    sec.save(small, tmp_path / "m.safetensors")
    loaded = sec.load(dense(), tmp_path / "m.safetensors").eval()
    x = torch.randn(4, 6)
    assert torch.equal(loaded(x), small(x))
    assert sec.report_of(torch.fx.symbolic_trace(cut_model())).proof.holds


def test_one_layer_of_a_cut_model_makes_no_cut_model():
    mixed = traceable()
    mixed[0] = cut_model()[0]
    assert not sec.report_of(mixed).cut
