import warnings
from itertools import islice

import numpy as np
import pytest
from scipy.special import expit

from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import DataError, SecateursError
from secateurs.training import distillation
from secateurs.training.distillation import (
    DistillationJudge,
    Effort,
    Rates,
    SeenAs,
    harms,
    lesson_of,
    one_cycle,
    train,
)
from secateurs.training.feed import Augmentation


class Point:
    """A model that gives the same scores for every image."""

    def __init__(self, *scores):
        self.scores = np.array(scores)

    def __call__(self, images):
        return [np.tile(self.scores, (len(images), 1))]


class Walker:
    """A student that goes a fixed way each step, whatever the rate; some steps fail."""

    def __init__(self, start, way, failing=()):
        self.start, self.way, self.rates, self.failing = start, np.array(way), [], failing
        self.point = start

    def step(self, images, wanted, rates):
        self.rates.append(rates)
        if len(self.rates) in self.failing:
            return False
        self.point = Point(*(self.point.scores + self.way))
        return bool(np.isfinite(self.point.scores).all())

    def finish(self, share=1.0):
        return Point(*(self.start.scores + share * (self.point.scores - self.start.scores)))


def images(*counts):
    total = np.arange(sum(counts), dtype=np.float32)[:, None]
    return [CalibrationBatch(part, None) for part in np.split(total, np.cumsum(counts)[:-1])]


def teach(small, way, steps=4, failing=()):
    dense = Point(2.0, 0.0)
    judge = DistillationJudge.of(
        lambda model, x: model(x), dense, images(3), SeenAs(None, channels_first=True)
    )
    student = Walker(small, way, failing)
    lesson = lesson_of(images(4, 4), None, batch_size=4, seed=0)
    return train(lambda _: student, small, dense, judge, lesson, Effort(steps)), student


def test_a_student_that_improves_is_kept():
    found, _ = teach(Point(0.0, 0.0), (0.5, 0.0))
    assert found.kept
    assert found.steps == 4
    assert found.model.scores.tolist() == [2.0, 0.0]
    p = np.exp(2) / (1 + np.exp(2))
    assert found.before == pytest.approx(p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)))
    assert found.after == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("way", [(-1.0, 0.0), (np.nan, 0.0), (1e200, -1e200)])
def test_a_student_that_diverges_is_not_kept(way):
    small = Point(1.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that are not finite
        found, _ = teach(small, way)
    assert found.model is small
    assert not found.kept


def test_a_step_without_a_finite_gradient_is_skipped_and_told():
    with pytest.warns(UserWarning, match="in 2 of 6 steps a gradient was not finite. They changed"):
        found, _ = teach(Point(0.0, 0.0), (0.5, 0.0), steps=6, failing=(2, 5))
    assert found.kept
    assert found.model.scores.tolist() == [2.0, 0.0]  # four steps of six


def test_training_ends_after_five_such_steps_with_what_it_has_learnt():
    with pytest.warns(UserWarning, match="in 6 of 8 steps.*it ended after 5 of them in a row"):
        found, student = teach(Point(0.0, 0.0), (0.5, 0.0), steps=20, failing=(2, *range(4, 20)))
    assert len(student.rates) == found.steps == 8
    assert found.model.scores.tolist() == [1.0, 0.0]
    assert found.kept


def test_nothing_is_kept_where_no_step_was_made():
    small = Point(0.0, 0.0)
    with pytest.warns(UserWarning, match="in 5 of 5 steps"):
        found, _ = teach(small, (0.5, 0.0), steps=20, failing=range(1, 21))
    assert found.model is found.trained is small
    assert not found.kept


HARD = np.random.default_rng(0).exponential(size=64)
"""Some images are hard for every model: far more so than models differ."""


@pytest.mark.parametrize(
    ("change", "harmful"),
    [
        (np.full(64, -0.01), False),
        (np.full(64, 0.01), True),  # a little worse, on every image
        (np.where(np.arange(64) == 7, 3.0, -0.03), False),  # worse by one image alone
        (np.where(np.arange(64) % 4 == 0, 0.9, -0.03), True),  # much worse on a quarter
        (np.where(np.arange(64) == 7, np.inf, -0.03), True),
        (np.where(np.arange(64) == 7, 1e9, -0.03), True),  # no one image may be absurdly far off
    ],
)
def test_a_single_image_does_not_decide_and_harm_is_detected(change, harmful):
    assert harms(HARD, HARD + change) == harmful


def test_held_out_images_are_evaluated_augmented_too_at_the_training_temperature():
    list_batches = []

    def run(model, x):
        list_batches.append(x)
        return [model.scores * x]  # what a model gives goes by the image

    dense, small = Point(2.0, 0.0), Point(1.0, 0.0)
    held_out = [CalibrationBatch(np.ones((3, 1)), None)]
    lesson = lesson_of(images(4), lambda x, random: 2 * x, batch_size=4, seed=0)
    judge = DistillationJudge.of(
        run, dense, held_out, SeenAs(None, channels_first=True, temperature=2.0), lesson
    )
    assert [float(x[0, 0]) for x in list_batches] == [1.0, 2.0, 2.0, 2.0]

    def apart(x, heat):
        p, q = expit(2.0 * x * heat), expit(1.0 * x * heat)
        return (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))) / heat**2

    np.testing.assert_allclose(judge.distances(small), np.full(3, apart(1, 1)))
    wanted = (apart(1, 0.5) + 3 * apart(2, 0.5)) / 4
    np.testing.assert_allclose(judge.marks(small), np.full(3, wanted))


def test_a_student_that_overshoots_is_interpolated():
    # The dense model gives (2, 0), the small one (1.5, 0); 4 steps of 0.6 end at (3.9, 0), and half
    # of that way, (2.7, 0), is still farther than the start; a quarter of it, (2.1, 0), is nearer.
    found, _ = teach(Point(1.5, 0.0), (0.6, 0.0))
    assert found.kept
    assert found.steps == 4
    np.testing.assert_allclose(found.model.scores, [2.1, 0.0])
    right, near = expit(2.0), expit(2.1)
    by_hand = right * np.log(right / near) + (1 - right) * np.log((1 - right) / (1 - near))
    assert found.after == pytest.approx(by_hand)


def test_a_model_that_loses_nothing_is_left_alone():
    small = Point(2.0, 0.0)
    found, student = teach(small, (0.5, 0.0))
    assert (found.model, found.steps, student.rates) == (small, 0, [])


def test_the_rates_rise_and_fall_and_are_lower_where_less_is_lost():
    _, far = teach(Point(0.0, 0.0), (0.0, 0.0), steps=50)
    _, near = teach(Point(1.5, 0.0), (0.0, 0.0), steps=50)
    for name in ("muon", "adam"):
        rates, lower = ([getattr(one, name) for one in each.rates] for each in (far, near))
        assert max(lower) < max(rates) <= 3e-3
        peak = int(np.argmax(rates))
        assert 0 < peak < 10
        assert (np.diff(rates[:peak]) > 0).all()
        assert (np.diff(rates[peak:]) < 0).all()
        assert rates[-1] < 0.01 * max(rates)
    assert one_cycle(1.0) == pytest.approx(0)
    assert Rates.highest(0.025, None).muon == pytest.approx(1.5e-3)
    given = Rates.highest(0.5, 0.7)
    assert (given.muon, given.adam) == (0.7, 0.7)


class Racer(Walker):
    """A student whose steps are as long as the rate says."""

    def step(self, images, wanted, rates):
        self.rates.append(rates)
        self.point = Point(*(self.point.scores + rates.muon * self.way))
        return True


def race(way, effort, rate=None):
    """(the result, every student in the order in which they began)."""
    small, dense = Point(0.0, 0.0), Point(2.0, 0.0)
    judge = DistillationJudge.of(
        lambda model, x: model(x), dense, images(3), SeenAs(None, channels_first=True)
    )
    students = []

    def enrol(model):
        students.append(Racer(model, way))
        return students[-1]

    lesson = lesson_of(images(4, 4), None, batch_size=4, seed=0)
    return train(enrol, small, dense, judge, lesson, effort, rate), students


@pytest.mark.parametrize(
    ("way", "scale"), [(2.0, 9), (45.0, 3), (140.0, 1), (400.0, 1 / 3), (4000.0, 1 / 27)]
)
def test_rates_are_those_of_the_best_trial(way, scale):
    found, (student, *trials) = race((way, 0.0), Effort(150))
    usual = Rates.highest(found.before, None)
    peaks = [max(rates.muon for rates in one.rates) / usual.muon for one in (student, *trials)]
    assert found.steps == len(student.rates) == 150
    assert {len(one.rates) for one in trials} == {10}
    # Ten steps of one cycle sum up to so many peaks; the nearest to the dense scores is best.
    total = way * usual.muon * sum(one_cycle(number / 10) for number in range(10))
    p = expit(2.0)

    def loss(scale):
        x = scale * total  # the cross entropy
        return p * np.logaddexp(0, -x) + (1 - p) * np.logaddexp(0, x)

    assert min((9, 3, 1, 1 / 3, 1 / 9, 1 / 27, 1 / 81), key=loss) == scale
    longest = max(one_cycle(number / 150) for number in range(150))
    assert peaks[0] == pytest.approx(scale * longest)
    ratios = [rates.adam / rates.muon for rates in student.rates if rates.muon]
    assert ratios == pytest.approx([usual.adam / usual.muon] * len(ratios))


def test_rates_at_which_a_gradient_is_not_finite_are_not_taken(monkeypatch):
    limit = 4 * Rates.highest(1.0, None).muon

    def step(student, images, wanted, rates):
        student.rates.append(rates)
        student.point = Point(*(student.point.scores + rates.muon * student.way))
        return rates.muon < limit

    monkeypatch.setattr(Racer, "step", step)
    found, (student, *trials) = race((2.0, 0.0), Effort(150))  # nine times would be best
    usual = Rates.highest(found.before, None).muon
    assert len(trials) == 3
    assert max(rates.muon for rates in student.rates) == pytest.approx(3 * usual)


def test_few_steps_or_a_given_rate_need_no_trial():
    assert len(race((1.0, 0.0), Effort(80))[1]) == 1
    assert len(race((1.0, 0.0), Effort(300), rate=0.01)[1]) == 1
    assert Effort(80).of_trial() is None
    assert Effort(90).of_trial() == Effort(6)
    assert Effort(3000, 60.0).of_trial() == Effort(20, 4.0)
    assert Effort(seconds=60.0).of_trial() == Effort(20, 4.0)


def test_trials_take_their_time_from_the_training(monkeypatch):
    seconds = iter(range(10_000))
    monkeypatch.setattr(distillation.time, "monotonic", lambda: float(next(seconds)))
    found, (student, *trials) = race((1.0, 0.0), Effort(seconds=300.0))
    spent = sum(len(one.rates) for one in (student, *trials))
    assert len(trials) >= 3
    assert 270 < spent < 300  # a second for each step, and one at each beginning and end
    assert found.steps == len(student.rates)
    # Where a fifteenth of the time is no trial, the usual rates stay.
    found, (student, *trials) = race((1500.0, 0.0), Effort(seconds=60.0))
    usual = Rates.highest(found.before, None).muon
    assert max(rates.muon for rates in student.rates) == pytest.approx(usual, rel=0.02)


def test_an_effort_is_a_number_of_steps_or_a_time():
    assert Effort.parse(20) == Effort(steps=20)
    assert Effort.parse("20") == Effort(steps=20)  # as on the command line
    assert Effort.parse("60s") == Effort(seconds=60)
    assert Effort.parse("1.5 min") == Effort(seconds=90)
    for wrong in ("0", "1e3", "-4", "³", "9" * 5000, "soon", 0, -1, 10**12, True, 2.5, "0s", None):
        with pytest.raises(SecateursError, match="received"):
            Effort.parse(wrong)


def test_training_ends_at_the_time_limit(monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(distillation.time, "monotonic", lambda: float(next(seconds)))
    assert list(Effort(seconds=4).progress()) == [0.25, 0.5, 0.75]
    assert len(list(Effort(steps=2, seconds=100).progress())) == 2
    assert len(list(Effort(steps=100, seconds=3).progress())) == 2
    assert len(list(Effort().progress())) == distillation.STEPS


def test_each_pass_shows_every_image_once():
    lesson = lesson_of(images(5, 3), None, batch_size=4, seed=0)
    (_, first), (_, second), (key, third), *_ = islice(lesson.batches(), 4)
    assert sorted(np.concatenate([first, second])[:, 0]) == list(range(8))
    assert key == 0
    assert np.array_equal(first, third)
    other = next(lesson_of(images(5, 3), None, batch_size=4, seed=1).batches())[1]
    assert not np.array_equal(first, other)


def test_augmentation_varies_and_is_reproducible_by_the_seed():
    draws = []

    def noisy(x, random):
        noise = random.normal(size=x.shape)
        draws.append(float(noise[0, 0]))
        return x + noise

    def list_batches(seed):
        lesson = lesson_of(images(5, 3), noisy, batch_size=4, seed=seed)
        return list(islice(lesson.batches(), 40))

    flat = [tuple(found[:, 0]) for _, found in list_batches(0)]
    assert all(key is None for key, _ in list_batches(0))
    assert len(set(flat)) == 40
    assert len(set(draws[:40])) == 40  # not the order alone is another in each pass
    assert flat == [tuple(found[:, 0]) for _, found in list_batches(0)]
    assert set(flat).isdisjoint(tuple(found[:, 0]) for _, found in list_batches(1))


def test_images_of_several_inputs_stay_together():
    given = [
        CalibrationBatch(
            {"a": np.arange(4.0)[:, None] + 4 * k, "b": np.arange(4)[:, None] + 4 * k}, None
        )
        for k in range(2)
    ]
    for _, found in islice(lesson_of(given, None, batch_size=3, seed=0).batches(), 4):
        assert np.array_equal(found["a"], found["b"])
        assert len(found["a"]) == 3


def test_sentences_of_several_lengths_stay_in_their_batches():
    given = [CalibrationBatch(np.ones((2, length)), None) for length in (3, 5, 7)]
    lesson = lesson_of(given, None, batch_size=2, seed=0)
    shapes = [found.shape for _, found in islice(lesson.batches(), 3)]
    assert sorted(shapes) == [(2, 3), (2, 5), (2, 7)]


def test_images_are_augmented_only_where_the_user_allows_it():
    pictures = np.random.default_rng(0).normal(size=(6, 2, 8, 8)).astype(np.float32)
    plain = next(
        lesson_of([CalibrationBatch(pictures, None)], None, batch_size=6, seed=0).batches()
    )[1]
    flips = next(
        lesson_of(
            [CalibrationBatch(pictures, None)], Augmentation(flip=True), batch_size=6, seed=0
        ).batches()
    )[1]
    flipped = [not np.array_equal(one, two) for one, two in zip(plain, flips, strict=True)]
    assert 0 < sum(flipped) < 6
    for one, two, turned in zip(plain, flips, flipped, strict=True):
        assert np.array_equal(two, one[..., ::-1] if turned else one)
    # The same with channels last.
    last = np.ascontiguousarray(np.moveaxis(pictures, 1, -1))
    lesson = lesson_of(
        [CalibrationBatch(last, None)],
        Augmentation(flip=True),
        batch_size=6,
        seed=0,
        channels_last=True,
    )
    assert np.array_equal(np.moveaxis(next(lesson.batches())[1], -1, 1), flips)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(DataError, match=r"\(N, C, H, W\)"):
        lesson_of(images(4), Augmentation(flip=True), batch_size=2, seed=0)
    with pytest.raises(DataError, match="received none"):
        lesson_of([], None, batch_size=2, seed=0)
    with pytest.raises(DataError, match="held-out"):
        DistillationJudge.of(
            lambda model, x: model(x), Point(1.0, 0.0), [], SeenAs(None, channels_first=True)
        )


def test_a_batch_is_as_large_as_memory_allows(monkeypatch):
    monkeypatch.setattr(distillation, "MOST_BYTES", 10_000)
    dense = Point(2.0, 0.0)  # sixteen bytes of scores for each image
    seen = SeenAs(None, channels_first=True)
    judge = DistillationJudge.of(lambda model, x: model(x), dense, images(3), seen)
    assert judge.loss_bytes == 8 * 16
    lesson = lesson_of(images(40, 3), None, seed=0)
    counted = []

    def count(each):
        return lambda some: counted.append(len(some)) or each * len(some)

    assert lesson.that_fits(count(872), judge).size == 10  # 10,000 / (872 + 128)
    assert lesson.that_fits(count(0), judge).size == 10_000 // 128
    assert lesson.that_fits(count(50_000), judge).size == 1
    assert lesson_of(images(1), None, seed=0).that_fits(count(872), judge).size == 10
    assert counted == [2, 2, 2, 1]
    monkeypatch.setattr(distillation, "MOST_BYTES", 10**9)
    assert lesson.that_fits(count(872), judge).size == lesson.size == 128
