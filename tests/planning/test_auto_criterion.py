"""``criterion="auto"``: which criterion wins and why, the same by every route."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.criteria import CRITERIA, score
from secateurs.errors import BudgetError, DataError, UnknownNameError
from secateurs.planning.auto_criterion import (
    CANDIDATES,
    Standing,
    Tournament,
    rank_candidates,
    tournament,
)
from secateurs.pytorch.statistics.cut_evaluation import evaluate_cut
from support.small_networks import Plain, Residual, images, labels

X, Y = images(24), labels(24)


def planner_of(network, share=0.4):
    return lambda scores: sec.plan(network, scores, sec.Budget(params=1 - share))


def recalibrate(model, x):
    """Batch normalisation's statistics from one batch, set by hand."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            seen = []
            handle = module.register_forward_pre_hook(
                lambda _, args, seen=seen: seen.append(args[0])
            )
            with torch.no_grad():
                model(x)
            handle.remove()
            # Later layers see what earlier ones, already put right, give.
            module.running_mean.copy_(seen[0].mean((0, 2, 3)))
            module.running_var.copy_(seen[0].var((0, 2, 3), unbiased=True))
    return model


def test_losses_are_those_of_the_cut_model_on_the_other_images():
    model = Residual()
    network = sec.trace(model, X[:1])
    found = tournament(network, (X, Y), planner_of(network), candidates=("l1", "taylor"))
    assert found.images == 12
    learn, judge = (X[::2], Y[::2]), (X[1::2], Y[1::2])
    for standing in found.standings:
        scores = score(network, standing.criterion, data=learn)
        small = sec.apply(model, planner_of(network)(scores), X[:1])
        small = recalibrate(small, torch.from_numpy(learn[0]))
        with torch.no_grad():
            outputs = small(torch.from_numpy(judge[0]))
        expected = F.cross_entropy(outputs, torch.from_numpy(judge[1])).item()
        assert standing.loss == pytest.approx(expected, rel=1e-4)
        right = (outputs.argmax(1).numpy() == judge[1]).mean()
        assert standing.accuracy == pytest.approx(right)


def test_the_lowest_loss_wins_and_its_scores_are_from_all_images():
    network = sec.trace(Residual(), X[:1])
    found = tournament(network, (X, Y), planner_of(network))
    losses = [one.loss for one in found.standings]
    assert losses == sorted(losses)
    assert {one.criterion for one in found.standings} == set(CANDIDATES)
    for one in found.standings:
        assert one.behind == pytest.approx(one.loss - losses[0], abs=1e-9)
    whole = score(network, found.winner, data=(X, Y))
    for name, values in found.scores.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=1e-7)


def test_standings_are_of_differences_image_by_image():
    losses = {"far": [1.0, 4, 7], "near": [2.0, 1, 3], "best": [1.0, 1, 1], "broken": [np.nan] * 3}
    found = {name: (np.array(values), None) for name, values in losses.items()}
    first, second, third, fourth, fifth = rank_candidates(found, {"none": "no labels"})
    assert (first.criterion, first.behind, first.error) == ("best", 0, 0)
    assert (second.criterion, second.loss, second.behind) == ("near", 2, 1)
    assert second.error == pytest.approx(np.sqrt(1 / 3))  # of 1, 0 and 2
    assert (third.criterion, third.behind) == ("far", 3)
    assert third.error == pytest.approx(3 / np.sqrt(3))  # of 0, 3 and 6
    assert (fourth.criterion, fifth.criterion, fifth.out) == ("broken", "none", "no labels")


@pytest.mark.parametrize(("behind", "is_close"), [(0.039, True), (0.041, False)])
def test_within_two_standard_errors_it_is_as_good(behind, is_close):
    standings = (Standing("one", 1.0, None), Standing("two", 1 + behind, None, behind, 0.02))
    reason = Tournament(standings, None, 8, 0.5, 0.5).reason
    assert ("within two standard errors" in reason) == is_close
    assert ("more than two standard errors" in reason) != is_close


def test_it_says_who_won_and_why():
    network = sec.trace(Residual(), X[:1])
    found = tournament(network, (X, Y), planner_of(network))
    assert found.reason.startswith(f"{found.winner} has the lowest calibration loss after 4")
    assert all(name in str(found) for name in CANDIDATES)
    plain = found.to_plain()
    assert plain["winner"] == plain["standings"][0]["criterion"] == found.winner


def test_every_road_to_auto_ends_at_the_same_winner():
    model = Residual()
    network = sec.trace(model, X[:1])
    won = tournament(network, (X, Y), planner_of(network, 0.5)).winner
    scores = sec.score(network, "auto", data=(X, Y))
    assert scores.criterion == won
    assert scores.tournament.winner == won
    pruned = sec.prune(model, X[:1], sec.Budget(params=0.5), criterion="auto", calibration=(X, Y))
    assert pruned.scores.criterion == won
    assert pruned.cut == sec.plan(network, scores, sec.Budget(params=0.5))


def test_a_criterion_that_cannot_take_part_is_named_with_the_reason():
    network = sec.trace(torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Linear(9, 4)), X_FLAT)
    found = tournament(
        network, (X_FLAT, Y_FLAT), planner_of(network, 0.3), candidates=("bn_scale", "l1")
    )
    assert found.winner == "l1"
    assert "expected normalisation layers" in found.standings[1].out
    assert "no other criterion could be used" in found.reason
    with pytest.raises(BudgetError, match="auto: no criterion could be used: bn_scale"):
        tournament(network, (X_FLAT, Y_FLAT), planner_of(network), candidates=("bn_scale",))


X_FLAT = np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)
Y_FLAT = np.arange(12) % 4


def test_it_leaves_the_model_as_it_was():
    model = Residual().train()
    before = copy.deepcopy(model.state_dict())
    network = sec.trace(model, X[:1])
    tournament(network, (X, Y), planner_of(network))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_loss_of_ones_own_decides():
    network = sec.trace(Residual(), X[:1])
    found = tournament(
        network, X, planner_of(network), loss=lambda outputs, _: outputs.square().sum(1)
    )
    assert found.standings[0].accuracy is None
    assert np.isfinite(found.dense_loss)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (None, DataError, "auto: expected calibration data; received none"),
        (X, DataError, "auto: .*expected labels"),
        ((X[:1], Y[:1]), DataError, "at least two calibration images"),
    ],
)
def test_what_it_needs(given, kind, message):
    network = sec.trace(Plain(), X[:1])
    with pytest.raises(kind, match=message):
        sec.score(network, "auto", data=given)


def test_candidates_have_to_exist():
    network = sec.trace(Plain(), X[:1])
    with pytest.raises(UnknownNameError, match="'l3'"):
        tournament(network, (X, Y), planner_of(network), candidates=("l3",))
    with pytest.raises(UnknownNameError, match="did you mean 'auto'"):
        score(network, "aut")
    assert "auto" not in CRITERIA


def test_no_cut_and_no_recalibration_is_the_dense_loss():
    model = Residual().eval()
    network = sec.trace(model, X[:1])
    losses, right = evaluate_cut(
        network, sec.Cut(), [CalibrationBatch(X[:5], Y[:5]), CalibrationBatch(X[5:], Y[5:])]
    )
    with torch.no_grad():
        outputs = model(torch.from_numpy(X))
    expected = F.cross_entropy(outputs, torch.from_numpy(Y), reduction="none")
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert right == pytest.approx((outputs.argmax(1).numpy() == Y).mean())


def test_the_loop_lets_them_compete_every_round_and_writes_down_who_won():
    model = Residual()
    data = (X, Y)
    result = sec.iterate(
        model,
        data,
        data,
        step=0.3,
        criterion="auto",
        training=sec.Training(fine_tune_batches=1, batch_size=24),
        stop=sec.Stop(rounds=2, tolerance=None),
        measure_speed=False,
        calibration_batches=1,
    )
    held = result.history.of("tournament")
    assert held[:, "round"] == [1, 2]
    first = held[0]
    assert first["winner"] == first["standings"][0]["criterion"]
    assert "has the lowest calibration loss" in first["reason"]
    losses = [one["loss"] for one in first["standings"]]
    assert losses == sorted(losses)
    # What the first round removed is the lowest by the winner's scores.
    network = sec.trace(model, X[:1])
    scores = score(network, first["winner"], data=data)
    cut = sec.plan(network, scores, amount=0.3, floor=1)
    removed = result.history.of("prune")[0]["widths"]
    assert removed["conv1"] == cut.tensors["conv1.weight"].shape_after[0]


def test_a_loss_of_ones_own_reaches_the_loop():
    seen = []

    def loss(outputs, labels):
        seen.append(len(outputs))
        return F.cross_entropy(outputs, labels, reduction="none")

    options = {"stop": sec.Stop(rounds=1, tolerance=None), "measure_speed": False}
    training = sec.Training(fine_tune_batches=1, batch_size=24)
    sec.iterate(
        Plain(), (X, Y), (X, Y), criterion="taylor", loss=loss, training=training, **options
    )
    assert seen
    sec.prune(
        Plain(), X[:1], sec.Budget(params=0.7), criterion="fisher", calibration=(X, Y), loss=loss
    )
    assert len(seen) > 1
