import pytest

from secateurs.errors import StudyError
from secateurs.formatting import points
from secateurs.report import summarise
from secateurs.report.summary import conditions, faster
from secateurs.study.history import History


def test_rounds_say_what_the_history_says(make_history):
    history = make_history(4, best_round=3)
    summary = summarise(history)
    cuts = history.of("prune")
    assert [one.params for one in summary.rounds] == cuts[:, "params"]
    assert [one.after_cut for one in summary.rounds] == cuts[:, "accuracy"]
    assert [one.speed for one in summary.rounds] == list(history.of("speed"))
    for one in (summary.dense, *summary.rounds):
        last = [record for record in history.of("train") if record["round"] == one.number][-1]
        assert (one.end, one.accuracy) == (last["batch"], last["accuracy"])
    assert summary.best is summary.rounds[2]
    assert summary.params_removed == 1 - cuts[2, "params"] / history[0, "params"]
    assert summary.macs_removed == 1 - cuts[2, "macs"] / history[0, "macs"]
    assert summary.shares_removed()[3] == summary.params_removed
    assert summary.gain == history[-1, "accuracy"] - history[-1, "dense_accuracy"]


def test_rounds_that_repair_recovered_took_no_batch(make_history):
    history = make_history(3, stopped=False)
    assert summarise(history).effort_text == "24,000 batches of fine-tuning after dense training"
    # In the place of the second round's training, as the loop records it.
    start = history.of("prune")[1, "batch"]
    records = [one for one in history if one["kind"] != "train" or one["round"] != 2]
    where = next(n for n, one in enumerate(records) if one["kind"] == "speed" and one["round"] == 2)
    found = {"round": 2, "batch": start, "accuracy": 0.95}
    records[where:where] = [
        {"kind": "train", **found},
        {"kind": "recovered", "by": "repair", **found},
    ]
    summary = summarise(History(records))
    assert [one.by_repair for one in (summary.dense, *summary.rounds)] == [
        False,
        False,
        True,
        False,
    ]
    assert [one.end - one.start for one in summary.rounds] == [8000, 0, 8000]
    assert summary.effort_text == (
        "16,000 batches of fine-tuning after dense training; repair alone recovered 1 of 3 rounds"
    )


def test_headlines(make_history):
    ended = make_history(31)
    share = 100 * (1 - ended.of("prune")[-1, "params"] / ended[0, "params"])
    gain = 100 * (ended[-1, "accuracy"] - ended[-1, "dense_accuracy"])
    assert gain > 0
    headline = f"{share:.1f} % of the parameters removed, +{gain:.1f} points of accuracy"
    assert summarise(ended).headline() == headline
    assert summarise(ended[:-1]).headline() == f"{headline} so far"
    assert "not pruned yet: 95.2 %" in summarise(make_history(0, stopped=False)).headline()
    assert "still the best after 2 rounds" in summarise(make_history(2, best_round=0)).headline()


def test_model_that_was_trained_before_has_no_dense_accuracy_until_the_end(make_history):
    history = make_history(2)
    untrained = History(one for one in history if one["kind"] != "train" or one["round"])
    assert summarise(untrained[:-1]).dense_accuracy is None
    assert summarise(untrained[:-1]).gain is None
    assert summarise(untrained).dense_accuracy == history[-1, "dense_accuracy"]


def test_round_recorded_twice_counts_once(make_history):
    history = make_history(2, stopped=False)
    again = dict(history.of("prune")[0])
    history.append(**{**again, "params": 7})
    assert [one.number for one in summarise(history).rounds] == [1, 2]
    assert summarise(history).rounds[0].params == 7


def test_history_without_dense_model_is_refused():
    with pytest.raises(StudyError, match=r"no record of kind 'dense'.*History\(empty\)"):
        summarise(History())


def test_words():
    assert points(0.0031) == "+0.3 points"
    assert points(-0.012) == "\N{MINUS SIGN}1.2 points"
    assert points(-0.0001) == points(0.0) == "\N{PLUS-MINUS SIGN}0.0 points"
    assert faster(1.65) == "65.0 % more images a second"
    assert faster(0.9) == "10.0 % fewer images a second"
    speed = {"device": "cpu", "threads": 1, "batch_size": 64}
    assert conditions(speed) == "cpu, 1 thread, batch of 64"
    assert conditions({"device": "cuda", "threads": None}) == "cuda"
