"""What users call: prune with images, repair of cuts made otherwise, the frontier."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from support.digits_network import IMAGES, TEST, Net, X, Y


def accuracy(model):
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(X[TEST])).argmax(1).numpy()
    return (found == Y[TEST]).mean()


def test_a_third_of_the_macs_keeps_the_accuracy_without_a_label(dense):
    budget = sec.Budget(macs=0.35)
    pruned = sec.prune(dense, IMAGES[:1], budget, calibration=IMAGES)
    dropped = sec.prune(dense, IMAGES[:1], budget, calibration=IMAGES, repair=False)
    others = [
        sec.prune(dense, IMAGES[:1], budget, calibration=IMAGES, seed=seed) for seed in (1, 2)
    ]
    assert accuracy(dense) > 0.9
    # Splits of 320 images differ by a few points, and processors round the dense network otherwise.
    kept = [accuracy(one.model) for one in (pruned, *others)]
    assert np.median(kept) > accuracy(dense) - 0.08
    assert accuracy(dropped.model) < accuracy(pruned.model) - 0.2
    assert dropped.cut == pruned.cut
    assert pruned.cut.after.macs <= 0.35 * pruned.cut.before.macs
    assert pruned.report.proof.holds
    fidelity = pruned.report.fidelity
    assert fidelity["repaired"].distance < 0.2 * fidelity["dropped"].distance
    assert fidelity.fidelity.distance == min(stage.fidelity.distance for stage in fidelity)
    assert "dropped evenly" in fidelity
    assert fidelity.images == 320
    assert fidelity.fidelity.images == 40
    assert "No data of a second domain were given" in str(pruned.report)
    assert dropped.report.fidelity.kept == "dropped"


def test_what_the_report_says_is_what_the_model_does(dense):
    """The divergence on the images that judge, by hand."""
    pruned = sec.prune(dense, IMAGES[:1], sec.Budget(macs=0.5), calibration=IMAGES, seed=3)
    judging = IMAGES[np.sort(np.random.default_rng(3).permutation(320)[:40])]
    with torch.no_grad():
        right = dense(torch.from_numpy(judging)).log_softmax(1).double()
        found = pruned.model(torch.from_numpy(judging)).log_softmax(1).double()
    expected = float(F.kl_div(found, right, log_target=True, reduction="batchmean"))
    assert pruned.report.fidelity.fidelity.distance == pytest.approx(expected, rel=1e-4)
    agree = float((right.argmax(1) == found.argmax(1)).double().mean())
    assert pruned.report.fidelity.fidelity.agreement == pytest.approx(agree)


@pytest.mark.parametrize(
    "given",
    [
        torch.from_numpy(IMAGES),
        (IMAGES, Y[:320]),
        [(IMAGES[:200], Y[:200]), (IMAGES[200:], Y[200:320])],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(IMAGES)), 100),
    ],
)
def test_calibration_comes_in_many_forms(dense, given):
    budget = sec.Budget(params=0.5)
    one = sec.prune(dense, IMAGES[:1], budget, calibration=IMAGES)
    other = sec.prune(dense, IMAGES[:1], budget, calibration=given)
    assert one.cut == other.cut
    assert torch.equal(one.model.head.weight, other.model.head.weight)


def test_a_criterion_ranks_inside_groups_and_curves_say_how_far(dense):
    budget = sec.Budget(macs=0.4)
    pruned = sec.prune(dense, IMAGES[:1], budget, calibration=IMAGES, criterion="l1")
    assert pruned.scores.criterion == "l1"
    network = sec.trace(dense, IMAGES[:1])
    scores = sec.score(network, "l1")
    shares = set()
    for name, gone in pruned.cut.channels.items():
        lowest = np.argsort(scores[name], kind="stable")[: len(gone.removed)]
        assert set(gone.removed) == set(lowest.tolist())
        shares.add(round(len(gone.removed) / gone.of, 1))
    assert len(shares) > 1
    even = sec.prune(dense, IMAGES[:1], budget, calibration=IMAGES, criterion="l1", scope="group")
    assert even.cut == sec.plan(network, scores, budget)
    assert "repaired" in even.report.fidelity


def test_a_cut_made_by_hand_is_found_and_repaired(dense):
    """No report: which channels it kept is read off the weights."""
    cut = sec.delete_channels(dense, {"inner": [1, 4, 9, 15], "last": [0, 7]}, IMAGES[:1])
    known = sec.repair(cut, dense, IMAGES)
    foreign = copy.deepcopy(cut)
    del vars(foreign)["_secateurs_report"]
    for layer in foreign.modules():
        vars(layer).pop("_secateurs_part", None)
    assert not sec.report_of(foreign).cut
    found = sec.repair(foreign, dense, IMAGES)
    assert torch.equal(found.head.weight, known.head.weight)
    fidelity = sec.report_of(found).fidelity
    assert fidelity["repaired"].distance < fidelity["dropped"].distance
    trained = copy.deepcopy(foreign)
    with torch.no_grad():
        trained.inner.weight.mul_(1.01)
        trained.norms[1].weight.mul_(1.01)
        trained.norms[1].bias.add_(0.01)
        trained.norms[1].running_mean.mul_(1.01)
        trained.norms[1].running_var.mul_(1.01)
    with pytest.raises(sec.CutError, match="expected slices of the dense model's weights"):
        sec.repair(trained, dense, IMAGES)


def test_a_cut_of_a_cut_model_is_repaired_towards_that_model(dense):
    """The small model's report counts from the first one: what went between is the difference."""
    between = sec.delete_channels(dense, {"inner": [1, 4], "last": [0]}, IMAGES[:1])
    small = sec.delete_channels(between, {"inner": [0, 9], "last": [6]}, IMAGES[:1])
    with torch.no_grad():
        small.inner.weight.mul_(1.01)  # so that no weight says which channels it kept
        small.norms[1].weight.mul_(1.01)
        small.norms[1].bias.add_(0.01)
        small.norms[1].running_mean.mul_(1.01)
        small.norms[1].running_var.mul_(1.01)
    fidelity = sec.report_of(sec.repair(small, between, IMAGES)).fidelity
    assert fidelity["repaired"].distance < fidelity["dropped"].distance
    again = sec.report_of(sec.repair(small, dense, IMAGES))
    assert again.cut.tensors["inner.weight"].removed[0] == (0, 1, 4, 11)


def test_another_dense_model_is_refused(dense):
    cut = sec.delete_channels(dense, {"inner": [1]}, IMAGES[:1])
    with pytest.raises(sec.CutError, match=r"expected a small model with the dense one's tensors"):
        sec.repair(cut, nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()), IMAGES)


def test_a_repair_that_harms_is_not_kept(dense, monkeypatch):
    from secateurs.reconstruction import walking

    refit = walking.refit_gathered

    def spoil(*given, **options):
        found = refit(*given, **options)
        return found and dataclasses.replace(found, weights=-found.weights)

    monkeypatch.setattr(walking, "refit_gathered", spoil)
    cut = sec.delete_channels(dense, {"last": [2]}, IMAGES[:1])
    repaired = sec.repair(cut, dense, IMAGES)
    fidelity = sec.report_of(repaired).fidelity
    assert fidelity.kept.startswith("dropped")
    assert fidelity["repaired"].distance > fidelity["dropped"].distance
    assert torch.equal(repaired.head.weight, cut.head.weight)


def test_distillation_comes_last_and_only_helps(dense):
    budget = sec.Budget(macs=0.2)
    closed = sec.prune(dense, IMAGES[:1], budget, calibration=IMAGES)
    distilled = sec.prune(dense, IMAGES[:1], budget, calibration=IMAGES, distil=60)
    fidelity = distilled.report.fidelity
    assert [stage.name for stage in fidelity][-1] == "distilled"
    assert fidelity.fidelity.distance <= closed.report.fidelity.fidelity.distance
    assert fidelity["repaired"].distance == closed.report.fidelity["repaired"].distance
    assert distilled.report.proof.holds


def test_a_repaired_model_is_saved_and_loaded_like_any_other(dense, tmp_path):
    pruned = sec.prune(dense, IMAGES[:1], sec.Budget(macs=0.5), calibration=IMAGES)
    sec.save(pruned.model, tmp_path / "small.safetensors")
    loaded = sec.load(Net(), tmp_path / "small.safetensors").eval()
    with torch.no_grad():
        x = torch.from_numpy(X[TEST])
        assert torch.equal(loaded(x), pruned.model(x))


def test_no_image_of_a_judging_source_is_fitted(dense):
    from secateurs.calibration.batches import CalibrationBatch
    from secateurs.reconstruction.calibration import Calibration

    marked = np.arange(320, dtype=np.float32)[:, None]
    split = Calibration.of_batches([CalibrationBatch(marked, None)], sources=np.arange(320) // 10)
    three = (split.fit, split.choose, split.judge)
    parts = [set((part.images[:, 0] // 10).tolist()) for part in three]
    assert [len(part) for part in parts] == [22, 6, 4]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    with pytest.raises(sec.DataError, match="expected one source for each of 320 images"):
        sec.prune(
            dense, IMAGES[:1], sec.Budget(macs=0.5), calibration=IMAGES, sources=["one", "two"]
        )


def test_a_second_kind_of_data_is_judged_and_said(dense):
    cut = sec.delete_channels(dense, {"inner": [1, 2, 3, 4, 5]}, IMAGES[:1])
    repaired = sec.repair(cut, dense, IMAGES, second_domain=-IMAGES[:50])
    fidelity = sec.report_of(repaired).fidelity
    assert fidelity.second_domain.images == 50
    assert fidelity.second_domain.distance > fidelity.fidelity.distance
    assert "On the second domain: KL" in fidelity.trust


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:40], "40 calibration images are few"),
        (np.repeat(IMAGES[:1], 80, axis=0), "all 80 calibration images are identical"),
        (IMAGES * 20 + 5, r"unlike the training data: in norms.* standard deviations"),
    ],
)
def test_doubtful_images_are_warned_of(dense, images, message):
    cut = sec.delete_channels(dense, {"inner": [1, 2]}, IMAGES[:1])
    with pytest.warns(UserWarning, match=message):
        sec.repair(cut, dense, images)


def test_images_too_few_to_repair_with_are_warned_of(dense):
    budget = sec.Budget(macs=0.5)
    with pytest.warns(UserWarning, match="expected at least 4 calibration images; received 3"):
        few = sec.prune(dense, IMAGES[:1], budget, calibration=IMAGES[:3])
    assert few.cut == sec.prune(dense, IMAGES[:1], budget).cut


def test_what_cannot_be_done_is_said(dense):
    broken = IMAGES.copy()
    broken[7, 0, 0, 0] = np.nan
    cut = sec.delete_channels(dense, {"inner": [1]}, IMAGES[:1])
    with pytest.raises(sec.DataError, match="image 7 holds NaN"):
        sec.repair(cut, dense, broken)
    with pytest.raises(sec.DataError, match="expected at least 4 calibration images"):
        sec.repair(cut, dense, IMAGES[:3])
    with pytest.raises(sec.DataError, match="distil: expected calibration images; received none"):
        sec.prune(dense, IMAGES[:1], sec.Budget(macs=0.5), distil=10)
    with pytest.raises(sec.SecateursError, match="distil: expected a number of steps"):
        sec.prune(dense, IMAGES[:1], sec.Budget(macs=0.5), calibration=IMAGES, distil="soon")


def test_without_images_moments_of_batch_norm_make_up_for_what_has_gone(dense):
    """Channels that read nothing but batch norm's results; a filter that is there twice is free."""
    twin = copy.deepcopy(dense)
    with torch.no_grad():
        twin.inner.weight[3], twin.inner.weight[9] = twin.inner.weight[1], twin.inner.weight[1]
        for values in twin.norms[1].parameters():
            values[3], values[9] = 0.5 * values[1], values[1]
        for values in (twin.norms[1].running_mean, twin.norms[1].running_var):
            values[3], values[9] = values[1], values[1]
    budget = sec.Budget(channels=0.8)
    with pytest.warns(UserWarning, match="running statistics of batch normalisation") as fidelity:
        repaired = sec.prune(twin, IMAGES[:1], budget, repair=True)
    assert "The result was not evaluated" in str(fidelity[0].message)
    plain = sec.prune(twin, IMAGES[:1], budget)
    assert repaired.cut == plain.cut
    assert repaired.report.proof.holds
    assert not torch.equal(repaired.model.outer.weight, plain.model.outer.weight)
    assert apart(twin, repaired.model) < apart(twin, plain.model)


def apart(dense, small):
    with torch.no_grad():
        wanted, found = (model(torch.from_numpy(X[TEST])) for model in (dense, small))
    return float((wanted - found).square().mean())


def test_without_images_and_batch_norm_noise_has_to_do():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    with pytest.warns(UserWarning, match="256 images of noise"):
        found = sec.prune(model, torch.zeros(1, 6), sec.Budget(macs=0.5), repair=True)
    assert found.report.fidelity.kept == "repaired"
    words = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with pytest.raises(sec.DataError, match="expected calibration images; received none"):
        sec.prune(words, torch.zeros(1, 4, dtype=torch.long), sec.Budget(macs=0.5), repair=True)


class TwoHeads(nn.Module):
    """Two outputs, each of hidden channels of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(6, 16)
        self.heads = nn.ModuleList([nn.Linear(16, 1), nn.Linear(16, 1)])

    def forward(self, x):
        hidden = self.first(x).tanh(), self.second(x).tanh()
        return torch.cat([head(h) for head, h in zip(self.heads, hidden, strict=True)], 1)


def test_what_the_loss_does_not_read_goes_first():
    torch.manual_seed(0)
    model, x = TwoHeads().eval(), torch.randn(400, 6)
    labels = model(x)[:, 0].detach()
    options = {"example_inputs": x[:1], "budget": sec.Budget(channels=0.6), "output": "relative"}

    def widths(calibration, **more):
        made = sec.prune(model, calibration=calibration, **options, **more).model
        return made.first.out_features, made.second.out_features

    def loss(outputs, labels):
        return (outputs[:, 0] - labels) ** 2

    both, read = widths(x), widths((x, labels), loss=loss)
    assert sum(read) <= 0.6 * 32
    assert read[0] == 16 > both[0]
    assert read[1] < both[1]
    # Labels alone, without a loss that reads them, change nothing.
    assert widths((x, labels)) == both
