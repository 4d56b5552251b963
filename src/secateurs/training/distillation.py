"""Label-free distillation: train a small model to match the dense one's outputs on images.

This module holds what both frameworks share: batches and their augmentation, learning rates, the
duration, and the decision whether the result is better on held-out images. A framework provides the
dense model's outputs and a ``Student``.

Source: Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015; Beyer et al.,
Knowledge Distillation: A Good Teacher is Patient and Consistent, CVPR 2022 (both models see the
same, strongly changed images).
"""

from __future__ import annotations

import itertools
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.outputs import Output, divergences, read_outputs
from secateurs.errors import DataError, SecateursError
from secateurs.training import rate_trials
from secateurs.training.feed import Augmentation, augment, mix
from secateurs.training.muon import RATE

STEPS = 300
BATCH = 128
TEMPERATURE = 2.0
_WARM_UP = 0.1
_HIGHEST_RATE = 3e-3
_FULL_RATE_ROOT = math.sqrt(0.1)
"""Square root of the divergence from which Muon uses its full learning rate."""
_ORDER, _CHANGES, _JUDGING = 11, 12, 13
_INTERPOLATIONS = (0.5, 0.25)
_ONE_IN_TWENTY = 1.64
"""Standard errors that chance exceeds in one case of twenty (one-sided)."""
_HARMFUL_RATIO = 2.0
"""Ratio of distances that counts as harm, however few images cause it."""
_VERSIONS = 3
"""Augmented versions of each held-out image that training is also judged on."""

Values = list[NDArray[Any]]
ImageChange = Callable[[Any, np.random.Generator], Any]
"""(images, random generator) -> as many augmented images; a user's own function."""


RunModel = Callable[[Any, Any], Values]
"""(model, images) -> its outputs in inference mode, as a flat list."""

Teach = Callable[[Any], Values]
"""Images -> the dense model's outputs, then the inputs of the layers used as hints."""

MOST_BYTES = 4 * 10**9
"""Bytes of activations in a step: long texts and large images come in smaller batches."""

_PROBED, _MOST_PROBES = 64, 8
"""Images by which a trial is judged, and the largest number of batches for them."""

_COPIES_OF_OUTPUTS = 8
"""Outputs, softened ones and their logarithms, of both models, and gradients, in one loss."""

_MOST_SKIPPED = 5
"""Steps in a row without a finite gradient after which training ends."""

_KEPT = 2**29
"""Bytes of the dense model's outputs that are cached for batches that repeat."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates: of Muon, for weight matrices, and of Adam, for other parameters."""

    muon: float
    adam: float

    @classmethod
    def highest(cls, lost: float, given: float | None) -> Rates:
        """The given rate; else a smaller one the less was lost.

        Both optimizers make steps whose length does not depend on the gradient's, so long steps
        would overshoot where little was lost.
        """
        if given is not None:
            return cls(given, given)
        much = math.sqrt(lost)
        return cls(RATE * min(1.0, much / _FULL_RATE_ROOT), _HIGHEST_RATE * min(1.0, much))

    def at(self, share: float) -> Rates:
        """The rates after this share of the steps."""
        return self.times(one_cycle(share))

    def times(self, scale: float) -> Rates:
        """The rates times a factor."""
        return Rates(self.muon * scale, self.adam * scale)


class Student(Protocol):
    """A copy of the small model in training, implemented by each framework."""

    def step(self, images: Any, wanted: Values, rates: Rates) -> bool:
        """Make one optimizer step towards these outputs.

        Returns False, and changes nothing, if a gradient is not finite.
        """

    def finish(self, share: float = 1.0) -> Any:
        """A new small model, at this share of the way from its initial to the trained values."""


@dataclass(frozen=True, slots=True)
class Distilled:
    """Result of ``distil``.

    Attributes:
        model: the trained model, or the given small one if training did harm.
        steps: number of optimizer steps.
        before: mean divergence from the dense model on held-out images, before training.
        after: the same after training, whether or not the result was kept.
        kept: whether the trained model was kept: see ``harms``.
        trained: the trained model, kept or not; the given one if there is none.
    """

    model: Any
    steps: int
    before: float
    after: float
    kept: bool
    trained: Any


MOST_STEPS = 10**7
"""Upper limit: days of training even for the smallest network."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to train; if both limits are given, until the first is reached.

    Attributes:
        steps: number of optimizer steps.
        seconds: wall time.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and (self.steps < 1 or self.steps != int(self.steps)):
            raise SecateursError(
                f"distil: expected a number of steps of at least 1; received steps={self.steps!r}"
            )
        if self.steps is not None and self.steps > MOST_STEPS:
            raise SecateursError(
                f"distil: expected at most {MOST_STEPS:,} steps, or a time such as '60s'; received "
                f"{self.steps:,}"
            )
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise SecateursError(
                f"distil: expected a positive number of seconds; received seconds={self.seconds!r}"
            )

    @classmethod
    def parse(cls, effort: int | str) -> Effort:
        """Parse a number as steps, and text with a unit as seconds or minutes.

        Example:
            >>> Effort.parse(300)
            Effort(steps=300, seconds=None)
            >>> Effort.parse("300")  # as on the command line
            Effort(steps=300, seconds=None)
            >>> Effort.parse("2min")
            Effort(steps=None, seconds=120.0)

        Raises:
            SecateursError: it is something else.
        """
        if isinstance(effort, str):
            found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|min|m)\s*", effort)
            if re.fullmatch(r"[0-9]{1,9}", effort.strip()):
                return cls(steps=int(effort))
            if found:
                return cls(seconds=float(found[1]) * (1 if found[2] == "s" else 60))
        elif isinstance(effort, int) and not isinstance(effort, bool):
            return cls(steps=effort)
        raise SecateursError(
            f"distil: expected a number of steps, such as 300, or a time, such as '60s' or '2min'; "
            f"received {effort!r}"
        )

    def of_trial(self) -> Effort | None:
        """Effort of one trial of learning rates; None where there is too little for any."""
        steps = STEPS if self.steps is None else self.steps
        trial = min(rate_trials.MOST_STEPS, int(steps * rate_trials.SHARE))
        if trial < rate_trials.LEAST_STEPS:
            return None
        return Effort(trial, self.seconds and self.seconds * rate_trials.SHARE)

    def less(self, seconds: float) -> Effort:
        """What is left after these seconds; steps are not counted."""
        if self.seconds is None:
            return self
        return replace(self, seconds=max(self.seconds - seconds, 1e-3))

    def progress(self) -> Iterator[float]:
        """Yield the share that is done before each step; ends when all is."""
        steps = STEPS if self.steps is None and self.seconds is None else self.steps
        start, done = time.monotonic(), 0
        while True:
            share = 0.0 if steps is None else done / steps
            if self.seconds is not None:
                share = max(share, (time.monotonic() - start) / self.seconds)
            if share >= 1:
                return
            yield share
            done += 1


@dataclass(frozen=True, eq=False)
class Lesson:
    """Batches of images for training, in an order that depends on the seed only.

    Attributes:
        images: calibration batches: arrays, or tuples or dictionaries of them.
        size: batch size, if all images have one shape; otherwise batches stay as given.
        change: augmentation of the images, if any.
        seed: seed of the order and the augmentation.
    """

    images: Sequence[CalibrationBatch]
    size: int
    change: ImageChange | None
    seed: int

    def batches(self) -> Iterator[tuple[int | None, Any]]:
        """Yield (key, images) without end.

        Without augmentation, images come in the same batches in every epoch, and equal keys mean
        equal batches, so that the dense model's outputs can be cached. Augmented images are drawn
        anew each time and have no key: caching a few versions of each would teach less.
        """
        for epoch in itertools.count():
            order = np.random.default_rng([_ORDER, self.seed, 0 if self.change is None else epoch])
            for number, batch in enumerate(_shuffle(self.images, self.size, order)):
                if self.change is None:
                    yield number, batch.images
                else:
                    random = np.random.default_rng([_CHANGES, self.seed, epoch, number])
                    yield None, self.change(batch.images, random)

    def that_fits(self, count_bytes: Callable[[Any], int], judge: DistillationJudge) -> Lesson:
        """The same lesson in batches for which ``MOST_BYTES`` are enough.

        Args:
            count_bytes: images -> bytes of the activations that a step keeps of them.
            judge: knows the size of the outputs.
        """
        some = self.images[0].rows(slice(0, 2))  # of one alone, some models drop an axis
        each = count_bytes(some.images) / len(some) + judge.loss_bytes
        return replace(self, size=batch_that_fits(each))

    def versions_of(self, held_out: Sequence[CalibrationBatch]) -> Iterator[list[CalibrationBatch]]:
        """Yield held-out images with the same augmentation, several times; nothing without one."""
        change = self.change
        if change is None:
            return
        for version in range(_VERSIONS):
            random = np.random.default_rng([_JUDGING, self.seed, version])
            yield [CalibrationBatch(change(batch.images, random), None) for batch in held_out]


@dataclass(frozen=True, slots=True)
class SeenAs:
    """How outputs are interpreted when training is judged.

    Attributes:
        kind: as for ``read_outputs``.
        channels_first: as for ``read_outputs``.
        temperature: temperature of training.
    """

    kind: str | Sequence[str] | None
    channels_first: bool
    temperature: float = 1.0


@dataclass(frozen=True, eq=False)
class DistillationJudge:
    """Distance of models from the dense one on images that nothing is fitted to.

    Attributes:
        run: the framework's function that runs a model.
        held_out: the images.
        wanted: the dense model's outputs for them.
        outputs: interpretation of the outputs.
        temperature: temperature at which training is judged.
        versions: augmented held-out images, each with the dense model's outputs.
    """

    run: RunModel
    held_out: Sequence[CalibrationBatch]
    wanted: Sequence[Values]
    outputs: tuple[Output, ...]
    temperature: float = 1.0
    versions: Sequence[tuple[Sequence[CalibrationBatch], Sequence[Values]]] = ()

    @classmethod
    def of(
        cls,
        run: RunModel,
        dense: Any,
        held_out: Sequence[CalibrationBatch],
        seen: SeenAs,
        lesson: Lesson | None = None,
    ) -> DistillationJudge:
        """Make a judge by the dense model; held-out images are augmented as in the ``lesson``.

        Raises:
            DataError: there are no images, or the dense model's outputs cannot be interpreted.
        """
        if not held_out:
            raise DataError(
                "distil: expected held-out images for evaluation; received none. Pass an eighth "
                "of the calibration images as held_out=, and leave them out of images."
            )
        wanted = [run(dense, batch.images) for batch in held_out]
        first = wanted[0]
        together = [
            np.concatenate([values[number] for values in wanted if _alike(values, first)])
            for number in range(len(first))
        ]
        read = read_outputs(together, seen.kind, channels_first=seen.channels_first)
        versions = [
            (changed, [run(dense, batch.images) for batch in changed])
            for changed in (() if lesson is None else lesson.versions_of(held_out))
        ]
        return cls(run, held_out, wanted, read, seen.temperature, versions)

    @property
    def loss_bytes(self) -> float:
        """Bytes that the loss takes of each image: copies of both models' outputs."""
        first = self.wanted[0]
        return _COPIES_OF_OUTPUTS * sum(values.nbytes for values in first) / len(self.held_out[0])

    def distances(self, model: Any) -> NDArray[np.float64]:
        """Distance of each held-out image, shape (images,); infinite if outputs are not finite."""
        return self._divergences_from(model, self.held_out, self.wanted, 1.0)

    def marks(self, model: Any) -> NDArray[np.float64]:
        """Distances that training is judged by, shape (images,), measured as in training.

        The dense model was trained on many calibration images, and is more certain about them than
        about others; about augmented ones, and at a higher temperature, it is not. So these are
        means over each image and its augmented versions, at the temperature of training.
        """
        pairs = [(self.held_out, self.wanted), *self.versions]
        every = [self._divergences_from(model, *pair, self.temperature) for pair in pairs]
        found: NDArray[np.float64] = np.mean(every, axis=0)
        return found

    def _divergences_from(
        self,
        model: Any,
        batches: Sequence[CalibrationBatch],
        wanted: Sequence[Values],
        temperature: float,
    ) -> NDArray[np.float64]:
        parts = []
        with np.errstate(all="ignore"):
            for batch, theirs in zip(batches, wanted, strict=True):
                given = self.run(model, batch.images)
                parts.append(divergences(self.outputs, theirs, given, temperature))
        found = np.concatenate(parts)
        return np.where(np.isfinite(found), found, np.inf)


def harms(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    """Whether training moved a model away from the dense one, by the held-out images.

    In any small model a few images are far off, and the mean of some dozens is dominated by one or
    two of them: training that helps can look harmful on one sample of images or another. So images
    are compared pairwise, and training is rejected if the mean rises by more than chance explains:
    by 1.64 standard errors, which happens in one of twenty harmless cases; or if the mean doubles,
    since a single extreme image makes the standard error as large as the mean.

    Args:
        before: distance of each held-out image, shape (images,).
        after: the same after training.

    Example:
        >>> before = np.array([0.1, 0.1, 0.1, 0.1])
        >>> harms(before, before + 0.01), harms(before, np.array([0.05, 0.05, 0.05, 0.3]))
        (True, False)
    """
    if not np.isfinite(after).all():
        return True
    change = after - before
    if change.mean() <= 0:
        return False
    error = change.std() / math.sqrt(len(change))
    return bool(
        change.mean() > _ONE_IN_TWENTY * error or after.mean() > _HARMFUL_RATIO * before.mean()
    )


def train(
    enrol: Callable[[Any], Student],
    small: Any,
    teach: Teach,
    judge: DistillationJudge,
    lesson: Lesson,
    effort: Effort,
    rate: float | None = None,
) -> Distilled:
    """Train a student, and keep the result unless it is worse on held-out images.

    Args:
        enrol: function that makes a student from a small model.
        small: the small model, returned if training did not help.
        teach: function that computes the targets.
        judge: judge on held-out images.
        lesson: images to train on.
        effort: how long to train, without the steps of trials, but with their time.
        rate: peak learning rate; None as by ``Rates.highest``, and by trial if there are many
            steps.
    """
    before = float(judge.distances(small).mean())
    student = enrol(small)
    if before == 0 or not math.isfinite(before):
        return Distilled(small, 0, before, before, False, small)
    course = _Course(teach, lesson)
    rates = Rates.highest(before, rate)
    if rate is None:
        start = time.monotonic()
        rates = _rates_by_trial(partial(enrol, small), course, judge, effort, rates)
        effort = effort.less(time.monotonic() - start)
    steps, skipped, ended = course.attend(student, effort, rates)
    _warn_of_skipped(skipped, steps, ended=ended)
    trained = student.finish()
    after = float(judge.distances(trained).mean())
    if skipped == steps or not math.isfinite(after):
        return Distilled(small, steps, before, math.inf, False, small)
    if harms(judge.marks(small), judge.marks(trained)):
        refused = Distilled(small, steps, before, after, False, trained)
        return _interpolate_back(student, judge, refused)
    return Distilled(trained, steps, before, after, True, trained)


class _Course:
    """Batches with the dense model's outputs, which are kept for batches that repeat."""

    def __init__(self, teach: Teach, lesson: Lesson) -> None:
        self.teach, self.lesson = teach, lesson
        self._known: dict[int, Values] = {}
        self._room = _KEPT

    def attend(self, student: Student, effort: Effort, rates: Rates) -> tuple[int, int, bool]:
        """Train; returns (steps, those skipped, whether many skipped in a row ended it)."""
        steps, skipped, in_a_row = 0, 0, 0
        for share, (key, images) in zip(effort.progress(), self.lesson.batches(), strict=False):
            steps += 1
            is_finite = student.step(images, self._targets(key, images), rates.at(share))
            in_a_row = 0 if is_finite else in_a_row + 1
            skipped += not is_finite
            if in_a_row == _MOST_SKIPPED:
                break
        return steps, skipped, in_a_row == _MOST_SKIPPED

    def _targets(self, key: int | None, images: Any) -> Values:
        wanted = self._known.get(key) if key is not None else None
        if wanted is None:
            wanted = self.teach(images)
            self._room -= sum(values.nbytes for values in wanted)
            if key is not None and self._room >= 0:
                self._known[key] = wanted
        return wanted

    def judge_like(self, judge: DistillationJudge, number: int) -> DistillationJudge:
        """The same judge on the batches of the lesson that come after this number of them."""
        count = max(1, min(_MOST_PROBES, _PROBED // self.lesson.size))
        some = [
            images for _, images in itertools.islice(self.lesson.batches(), number, number + count)
        ]
        return replace(
            judge,
            held_out=[CalibrationBatch(images, None) for images in some],
            wanted=[self.teach(images)[: len(judge.outputs)] for images in some],
            versions=(),
        )


def _rates_by_trial(
    enrol: Callable[[], Student],
    course: _Course,
    judge: DistillationJudge,
    effort: Effort,
    rates: Rates,
) -> Rates:
    """The rates, scaled to be the best of some trials, by the distance on images to learn from."""
    trial = effort.of_trial()
    if trial is None:
        return rates
    probe = course.judge_like(judge, trial.steps or 0)

    def loss_at(scale: float) -> float:
        student = enrol()
        steps, skipped, _ = course.attend(student, trial, rates.times(scale))
        if steps < rate_trials.LEAST_STEPS:  # no time for a trial: the usual rates stay
            return -math.inf if scale == 1 else math.inf
        return math.inf if skipped else float(probe.marks(student.finish()).mean())

    return rates.times(rate_trials.best_scale(loss_at))


def _warn_of_skipped(skipped: int, steps: int, *, ended: bool) -> None:
    if skipped:
        end = f", and it ended after {_MOST_SKIPPED} of them in a row" if ended else ""
        warnings.warn(
            f"distil: in {skipped} of {steps} steps a gradient was not finite. They changed "
            f"nothing{end}. Look for inputs of an unusual size, or for augmentation= that makes "
            "some.",
            UserWarning,
            stacklevel=4,
        )


def _interpolate_back(student: Student, judge: DistillationJudge, refused: Distilled) -> Distilled:
    """Try models between the given and the rejected one; returns the nearest to the dense model.

    Steps that are too long for how little was lost overshoot, and a point on the way back is often
    nearer than either end.

    Source: Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022.
    """
    best, mark = refused, float(judge.marks(refused.model).mean())
    for share in _INTERPOLATIONS:
        between = student.finish(share)
        found = float(judge.marks(between).mean())
        if found < mark:
            after = float(judge.distances(between).mean())
            best = Distilled(between, refused.steps, refused.before, after, True, between)
            mark = found
    return best


def one_cycle(share: float) -> float:
    """Learning rate relative to its peak after this share of the steps (one-cycle schedule).

    It rises as half a cosine and falls to zero as one.

    Source: Smith & Topin, Super-Convergence, 2018.
    """
    if share < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * share / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2


def batch_that_fits(each: float) -> int:
    """The usual batch size, or the number of images that ``MOST_BYTES`` are enough for.

    Args:
        each: bytes that a step keeps of one image.

    Example:
        >>> batch_that_fits(1e6), batch_that_fits(1e9), batch_that_fits(1e10)
        (128, 4, 1)
    """
    return int(min(BATCH, max(1, MOST_BYTES // max(1, each))))


def lesson_of(
    images: Sequence[CalibrationBatch],
    augmentation: Augmentation | ImageChange | None,
    *,
    batch_size: int | None = None,
    seed: int,
    channels_last: bool = False,
) -> Lesson:
    """Prepare the batches of training.

    Args:
        images: calibration data.
        augmentation: augmentation of the images; None leaves them unchanged.
        batch_size: images per batch; None takes the usual number.
        seed: seed of the order and the augmentation.
        channels_last: whether images have shape (N, H, W, C).

    Raises:
        DataError: there are no images, or an ``Augmentation`` is given for data of another shape.
    """
    if not images:
        raise DataError("distil: expected images to learn from; received none")
    size = BATCH if batch_size is None else batch_size
    if size < 1:
        raise DataError(f"distil: expected a batch_size of at least 1; received {size}")
    change = change_of(augmentation, images[0].images, channels_last=channels_last)
    return Lesson(images, size, change, seed)


def change_of(
    augmentation: Augmentation | ImageChange | None,
    images: Any,
    *,
    channels_last: bool = False,
    caller: str = "distil",
) -> ImageChange | None:
    """The function that changes images like these; None if nothing changes.

    Args:
        augmentation: what a user allows.
        images: some of the images.
        channels_last: whether images have shape (N, H, W, C).
        caller: name of what changes them, for messages.

    Raises:
        DataError: an ``Augmentation`` is given for data of another shape.
    """
    if augmentation is None or (isinstance(augmentation, Augmentation) and not augmentation):
        return None
    if not isinstance(augmentation, Augmentation):
        return augmentation
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype.kind != "f":
        raise DataError(
            f"{caller}: expected images of shape (N, C, H, W) for Augmentation(flip, shift, mix); "
            f"received {getattr(images, 'shape', type(images).__name__)}. Pass a function "
            "(images, random) -> images as augmentation=, or none."
        )

    def change(images: Any, random: np.random.Generator) -> Any:
        return _change_images(images, augmentation, random, channels_last)

    return change


def _alike(values: Values, others: Values) -> bool:
    """Whether outputs of two batches differ in the number of images only."""
    return [value.shape[1:] for value in values] == [other.shape[1:] for other in others]


def _shuffle(
    images: Sequence[CalibrationBatch], size: int, random: np.random.Generator
) -> Iterator[CalibrationBatch]:
    """Yield random batches of ``size`` images; an incomplete last batch is dropped."""
    shapes = {_shape(batch.images) for batch in images}
    if len(shapes) > 1:  # sequences of several lengths: only the order of batches can change
        for number in random.permutation(len(images)):
            yield images[number]
        return
    counts = np.array([len(batch) for batch in images])
    owner = np.repeat(np.arange(len(images)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    size = min(size, len(owner))
    order = random.permutation(len(owner))
    for start in range(0, len(order) - size + 1, size):
        rows = order[start : start + size]
        yield CalibrationBatch(_gather(images, owner[rows], place[rows]), None)


def _shape(images: Any) -> tuple[Any, ...]:
    if isinstance(images, dict):
        return tuple((key, _shape(value)) for key, value in sorted(images.items()))
    if isinstance(images, (tuple, list)):
        return tuple(_shape(value) for value in images)
    return tuple(images.shape[1:])


def _gather(
    batches: Sequence[CalibrationBatch], owner: NDArray[np.int64], place: NDArray[np.int64]
) -> Any:
    """Gather images by (batch, position in it), in that order."""
    back = np.argsort(np.argsort(owner, kind="stable"), kind="stable")
    parts = [batches[number].rows(place[owner == number]).images for number in np.unique(owner)]
    return _join(parts, back)


def _join(parts: Sequence[Any], back: NDArray[np.int64]) -> Any:
    first = parts[0]
    if isinstance(first, dict):
        return {key: _join([part[key] for part in parts], back) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(_join(values, back) for values in zip(*parts, strict=True))
    return np.concatenate(parts)[back]


def _change_images(
    images: NDArray[Any],
    augmentation: Augmentation,
    random: np.random.Generator,
    channels_last: bool,
) -> NDArray[Any]:
    if channels_last:
        images = np.moveaxis(images, -1, 1)
    images = mix(augment(images, augmentation, random), augmentation, random)
    return np.ascontiguousarray(np.moveaxis(images, 1, -1) if channels_last else images)
