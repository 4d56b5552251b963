"""The loop's decisions, against a learner with scripted accuracies."""

import itertools

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.settings.pruning import Pruning
from secateurs.settings.study import Configuration, Stop, Task
from secateurs.settings.training import Training
from secateurs.study.check import check_study
from secateurs.study.position import StudyStage
from secateurs.training.schedules import learning_rates
from support.scripted import Recorded, Scripted, run


def recovers_until(last):
    """0.9, and 0.8 in every round after ``last``."""
    return lambda round_, done: 0.9 if round_ <= last else 0.8


def rising(round_, done):
    """The last evaluation of every round is its best."""
    return 0.9 + 0.0001 * done


def without_times(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_each_round_removes_a_share_of_what_remains():
    _, store = run(Scripted(recovers_until(9)), stop={"rounds": 9}, pruning={"step": 0.2})
    left = [40, *store.history.of("prune")[:, "channels"]]
    assert left == [40, 32, 26, 21, 17, 14, 11, 9, 7, 6]
    for before, after in itertools.pairwise(left):
        assert before - after == round(0.2 * before)


def test_a_share_of_few_channels_is_one_channel():
    learner = Scripted(recovers_until(99), widths=(3, 3))
    _, store = run(learner, stop={"rounds": 3}, pruning={"step": 0.05})
    assert store.history.of("prune")[:, "channels"] == [5, 4, 3]


def test_it_goes_on_while_accuracy_recovers_and_keeps_the_smallest_that_did():
    learner = Scripted(recovers_until(3))
    position, store = run(learner)
    stop = store.history.last("stop")
    assert (stop["best_round"], stop["round"]) == (3, 4)
    assert stop["accuracy"] == stop["dense_accuracy"] == 0.9
    assert "round 4 did not recover: 80.0 % validation accuracy, 89.5 % needed" in stop["reason"]
    kept = store.history.of("prune")[2]
    assert sum(p.numel() for p in learner.model.parameters()) == kept["params"]
    assert learner.cut.after.params == kept["params"]
    assert position.stage is StudyStage.ENDED


def test_where_no_round_recovers_the_dense_model_is_the_result():
    learner = Scripted(recovers_until(0))
    position, store = run(learner)
    assert store.history.last("stop")["best_round"] == 0
    assert not learner.cut
    assert position.result_proof is None
    assert [p.shape for p in learner.model.parameters()] == [
        p.shape for p in learner.origin.parameters()
    ]


@pytest.mark.parametrize(("accuracy", "recovers"), [(0.895, True), (0.8949, False), (0.95, True)])
def test_the_tolerance_is_of_the_dense_accuracy(accuracy, recovers):
    learner = Scripted(lambda round_, done: accuracy if round_ else 0.9)
    _, store = run(learner, stop={"rounds": 1, "tolerance": 0.005})
    assert store.history.last("stop")["best_round"] == (1 if recovers else 0)


def test_with_patience_a_round_may_miss():
    learner = Scripted(lambda round_, done: 0.8 if round_ in (2, 4, 5) else 0.9)
    _, store = run(learner, stop={"patience": 2})
    stop = store.history.last("stop")
    assert (stop["best_round"], stop["round"]) == (3, 5)


def test_without_a_tolerance_it_goes_on_to_the_end():
    _, store = run(Scripted(recovers_until(0)), stop={"rounds": 3, "tolerance": None})
    stop = store.history.last("stop")
    assert (stop["best_round"], stop["reason"]) == (3, "the maximum of 3 rounds is reached")


@pytest.mark.parametrize(
    ("budget", "limit"), [("params=0.5", 271), ("macs=200", 200), ("channels=0.33", 13.2)]
)
def test_a_budget_ends_it_and_is_met_without_overshooting(budget, limit):
    learner = Scripted(recovers_until(99))
    _, store = run(learner, stop={"budget": budget}, pruning={"step": 0.1})
    cuts = store.history.of("prune")
    assert "the budget is met" in store.history.last("stop")["reason"]
    name = budget.partition("=")[0]
    assert cuts[-1, name] <= limit < cuts[-2, name]


def test_a_budget_may_be_of_the_file(tmp_path):
    learner = Scripted(recovers_until(99), widths=(200, 200))
    _, store = run(learner, stop={"budget": "size_mb=80 kB"}, pruning={"step": 0.1})
    assert "the budget is met" in store.history.last("stop")["reason"]
    sec.save(learner.model, tmp_path / "small.safetensors")
    assert 75_000 < (tmp_path / "small.safetensors").stat().st_size <= 80_000


def test_the_last_round_removes_no_more_than_the_budget_asks():
    learner = Scripted(recovers_until(99))
    _, store = run(learner, stop={"budget": "channels=31"}, pruning={"step": 0.2})
    assert store.history.of("prune")[:, "channels"] == [32, 31]


def test_floors_are_of_the_dense_model():
    learner = Scripted(recovers_until(999), widths=(20, 10))
    _, store = run(learner, pruning={"step": 0.3, "floor": 0.4})
    assert store.history.last("stop")["reason"] == (
        "no more channels can be removed: every group is at its floor"
    )
    assert store.history.of("prune")[-1, "widths"] == {"0": 8, "2": 4, "4": 2}


def test_the_best_evaluation_of_a_round_is_kept():
    learner = Scripted(lambda round_, done: 0.91 if done == 10 else 0.9)
    _, store = run(learner, training={"evaluate_every": 5}, stop={"rounds": 1})
    # Dense training went back to its batch 10 of 20, and the round went on from there.
    assert learner.batches_trained == 20
    assert store.history.last("stop")["accuracy"] == 0.91
    assert [r["batch"] for r in store.history.of("train")] == [5, 10, 15, 20, 25, 30, 35, 40]


def test_of_equally_good_evaluations_the_later_is_kept_where_it_is_surer():
    learner = Scripted(lambda round_, done: 0.9)
    run(learner, training={"evaluate_every": 5}, stop={"rounds": 0})
    assert learner.batches_trained == 5  # no surer later, so the first


def test_a_round_ends_as_soon_as_it_has_recovered_if_asked():
    learner = Scripted(lambda round_, done: 0.9 if not round_ or done >= 10 else 0.5)
    options = {"training": {"evaluate_every": 5}, "stop": {"rounds": 2}}
    _, store = run(learner, pruning={"until_recovered": True}, **options)
    assert [r["batch"] for r in store.history.of("train") if r["round"]] == [25, 30, 35, 40]
    _, store = run(Scripted(learner.accuracy), **options)
    assert [r["batch"] for r in store.history.of("train") if r["round"]][-1] == 60


def test_the_test_data_are_looked_at_once_at_the_very_end():
    learner = Scripted(recovers_until(2))
    run(learner)
    parts = [entry[1] for entry in learner.log if entry[0] == "evaluate"]
    assert parts[-2:] == ["test", "test"]
    assert "test" not in parts[:-2]
    learner = Scripted(recovers_until(2))
    learner.has_test = False
    _, store = run(learner)
    assert ("evaluate", "test") not in learner.log
    assert store.history.last("stop")["test_accuracy"] is None


def rates_by_round(learner, of):
    """All learning rates, cut into pieces of the given lengths."""
    rates = [rate for entry in learner.log if entry[0] == "train" for rate in entry[2]]
    pieces = []
    for length in of:
        pieces.append(rates[:length])
        rates = rates[length:]
    assert not rates
    return pieces


def dense_rates(batches=20):
    return learning_rates("cosine", 0.1, batches, 0.1).tolist()


def test_rewinding_weights_takes_survivors_back_and_replays_the_schedule():
    learner = Scripted(rising)
    run(
        learner,
        training={"fine_tune_batches": 7},
        pruning={"rewind": "weights"},
        stop={"rounds": 2},
    )
    assert rates_by_round(learner, (20, 7, 7)) == [dense_rates(), *[dense_rates()[13:]] * 2]
    # 13 batches of dense training, and 7 of the last round: the first round's are forgotten.
    assert learner.batches_trained == 20


def test_rewinding_the_learning_rate_leaves_the_weights():
    learner = Scripted(rising)
    run(
        learner,
        training={"fine_tune_batches": 7},
        pruning={"rewind": "learning-rate"},
        stop={"rounds": 2},
    )
    assert rates_by_round(learner, (20, 7, 7)) == [dense_rates(), *[dense_rates()[13:]] * 2]
    assert learner.batches_trained == 34


def test_a_lottery_ticket_is_trained_all_over_again():
    learner = Scripted(rising)
    run(
        learner,
        training={"fine_tune_batches": 7},
        pruning={"rewind": "lottery"},
        stop={"rounds": 2},
    )
    assert rates_by_round(learner, (20, 20, 20)) == [dense_rates()] * 3
    assert learner.batches_trained == 20


def test_survivors_have_their_own_earlier_values():
    learner = Scripted(rising)
    initial = {name: value.clone() for name, value in learner.origin.state_dict().items()}
    run(learner, pruning={"rewind": "lottery"}, stop={"rounds": 2})
    for name, tensor in learner.model.state_dict().items():
        if name == "4.bias":
            continue
        cut = learner.cut.tensors.get(name)
        expected = initial[name].numpy()
        for axis in cut.removed if cut else ():
            expected = np.take(expected, cut.list_kept(axis), axis)
        np.testing.assert_array_equal(tensor.numpy(), expected)


def test_the_default_rate_of_fine_tuning_is_large_but_for_short_rounds():
    for batches, peak in ((9, 0.02), (10, 0.1)):
        learner = Scripted(recovers_until(99))
        run(learner, training={"fine_tune_batches": batches}, stop={"rounds": 1})
        _, fine = rates_by_round(learner, (20, batches))
        assert fine == pytest.approx(learning_rates("cosine", peak, batches, 0.1).tolist())


def test_every_round_is_scored_anew():
    seen = []

    def filter_sums(facts):
        seen.append((facts.group.name, len(facts)))
        return np.arange(len(facts))

    _, store = run(
        Scripted(recovers_until(99)),
        criterion=filter_sums,
        stop={"rounds": 2},
        pruning={"step": 0.5},
    )
    assert seen == [("0", 20), ("2", 20), ("0", 10), ("2", 10)]
    # The lowest scores went: the first half, twice.
    last = store.checkpoints[-1][1].cut
    assert last.channels["0"].removed == tuple(range(15))


def test_training_that_diverges_is_told():
    learner = Scripted(recovers_until(9))
    learner.train = lambda first, rates, tick: float("nan")
    with pytest.raises(sec.SecateursError, match=r"diverged: .* before batch 10 .*learning rate"):
        run(learner)


def test_whoever_watches_is_told_of_every_batch_and_record():
    class Watching(sec.Watcher):
        ticks, open, records = 0, 0, []

        def begin(self, stage, batches, done=0):
            self.open += 1

        def tick(self):
            self.ticks += 1

        def end(self):
            self.open -= 1

        def recorded(self, record):
            self.records.append(record)

    watcher = Watching()
    learner = Scripted(recovers_until(99))
    _, store = run(learner, stop={"rounds": 2}, watcher=watcher)
    evaluations = sum(entry[0] == "evaluate" for entry in learner.log)
    assert (watcher.ticks, watcher.open) == (60 + evaluations, 0)
    assert watcher.records == list(store.history)


@pytest.mark.parametrize("rewind", [None, "weights", "lottery"])
def test_from_every_checkpoint_it_decides_as_it_would_have(rewind):
    def accuracy(round_, done):
        return 0.9 + 0.001 * (done % 15) - 0.006 * max(0, round_ - 2)

    options = {
        "training": {"evaluate_every": 5},
        "pruning": {"rewind": rewind},
        "stop": {"patience": 2},
    }
    learner = Scripted(accuracy)
    position, store = run(learner, **options)
    assert 0 < position.result_round < position.round
    assert len(store.checkpoints) > 20
    # A crash loses at most the batches since the last look at the validation data.
    batches = [checkpoint[0].batch for checkpoint in store.checkpoints]
    assert max(np.diff([0, *batches])) == 5
    for number in range(len(store.checkpoints)):
        again = Scripted(accuracy)
        again.origin = learner.origin
        end, finished = run(again, store.back_to(number), **options)
        assert end == position
        assert without_times(finished.history) == without_times(store.history)
        for mine, theirs in zip(again.model.parameters(), learner.model.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def extend_study(accuracy, first, second):
    """(position, history) of a study that ended by ``first`` and goes on by ``second``."""
    learner = Scripted(accuracy)
    _, store = run(learner, stop=first)
    again = Scripted(accuracy)
    again.origin = learner.origin
    return run(again, store.back_to(len(store.checkpoints) - 1), stop=second)


def test_with_a_looser_tolerance_the_latest_round_is_judged_anew():
    def falling(round_, done):
        return 0.9 - 0.003 * round_

    # Round 2 is 0.006 below the dense model, round 4 is 0.012.
    position, store = extend_study(falling, {"tolerance": 0.005}, {"tolerance": 0.01})
    kinds = [record["kind"] for record in store.history if record["kind"] in ("stop", "extended")]
    assert kinds == ["stop", "extended", "stop"]
    first, last = store.history.of("stop")
    assert (first["round"], first["best_round"]) == (2, 1)
    assert (last["round"], last["best_round"]) == (4, 3)
    assert position.result_accuracy == pytest.approx(0.891)
    # As one that had it from the start.
    whole, _ = run(Scripted(falling), stop={"tolerance": 0.01})
    assert (whole.round, whole.result_round) == (position.round, position.result_round)


def test_rounds_that_missed_count_by_the_new_tolerance():
    def jagged_accuracy(round_, done):
        return (0.9, 0.9, 0.897, 0.88, 0.88, 0.88, 0.88)[min(round_, 6)]

    # With patience 2, rounds 2 and 3 missed 0.001; by 0.005, round 3 alone has.
    position, store = extend_study(
        jagged_accuracy, {"tolerance": 0.001, "patience": 2}, {"tolerance": 0.005, "patience": 2}
    )
    assert [record["round"] for record in store.history.of("stop")] == [3, 4]
    # With more patience alone, two have missed so far.
    position, store = extend_study(
        jagged_accuracy, {"tolerance": 0.001, "patience": 2}, {"tolerance": 0.001, "patience": 4}
    )
    assert [record["round"] for record in store.history.of("stop")] == [3, 5]
    assert position.result_round == 1


def configure(**settings):
    kinds = {"training": Training, "pruning": Pruning, "stop": Stop}
    made = {name: kinds[name](**values) for name, values in settings.items()}
    return Configuration(task=Task(model="scripted", data="none"), **made)


@pytest.mark.parametrize(
    ("settings", "criterion", "error", "message"),
    [
        ({}, "l1_men", sec.UnknownNameError, "'l1_men'; did you mean 'l1_mean'"),
        (
            {"pruning": {"skip": ("1",)}},
            "l1",
            sec.UnknownNameError,
            "no group or layer matches '1'",
        ),
        ({"pruning": {"skip": ("*",)}}, "l1", sec.ModelError, "besides those skipped"),
        ({"stop": {"budget": "params=0.001"}}, "l1", sec.BudgetError, "the nearest that can"),
        ({"pruning": {"rewind": "weights"}}, "l1", sec.SecateursError, "training.batches above 0"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(
    settings, criterion, error, message
):
    learner = Scripted(recovers_until(9))
    with pytest.raises(error, match=message.replace(".", r"\.")):
        check_study(learner, configure(**settings), criterion)
    assert learner.log == []


def test_a_journal_of_the_test_keeps_what_it_is_given():
    # The tests above stand on it.
    _, store = run(Scripted(recovers_until(1)))
    assert isinstance(store, Recorded)
    assert store.checkpoints[-1][0].stage is StudyStage.ENDED
