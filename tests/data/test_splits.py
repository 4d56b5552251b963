"""Splits are disjoint, complete, stratified, and the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateurs.data.splits import check_shares, draw_stratified, split_stratified
from secateurs.errors import DataError

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(np.array)
SHARES = st.floats(0, 0.45)


@settings(max_examples=60, deadline=None)
@given(LABELS, SHARES, SHARES, st.integers(0, 1000))
def test_every_row_is_in_one_split(
    labels: np.ndarray, validation: float, test: float, seed: int
) -> None:
    parts = split_stratified(labels, validation, test, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = split_stratified(labels, validation, test, seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))
    assert set(labels[parts[0]]) == set(labels)  # no class is missing from training


def test_classes_are_divided_alike() -> None:
    labels = np.repeat([0, 1, 2], [200, 100, 40])
    train, validation, test = split_stratified(labels, 0.2, 0.1, seed=3)
    assert np.bincount(labels[validation]).tolist() == [40, 20, 8]
    assert np.bincount(labels[test]).tolist() == [20, 10, 4]
    assert np.bincount(labels[train]).tolist() == [140, 70, 28]


def test_rare_classes_are_in_every_split() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 3, 2, 1])
    train, validation, test = split_stratified(labels, 0.1, 0.1, seed=0)
    assert np.bincount(labels[validation], minlength=4).tolist() == [10, 1, 1, 0]
    assert np.bincount(labels[test], minlength=4).tolist() == [10, 1, 0, 0]
    assert np.bincount(labels[train], minlength=4).tolist() == [80, 1, 1, 1]


def test_another_seed_another_split() -> None:
    labels = np.arange(100) % 4
    one, other = (set(split_stratified(labels, 0.2, 0.2, seed)[1]) for seed in (0, 1))
    assert one != other


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(5, 90), st.integers(0, 1000))
def test_a_subset_has_every_class_and_the_size_asked_for(
    labels: np.ndarray, limit: int, seed: int
) -> None:
    rows = draw_stratified(labels, limit, seed)
    assert len(set(rows.tolist())) == len(rows) == min(limit, len(labels))
    assert set(labels[rows]) == set(labels)


def test_rare_classes_stay_in_a_subset_of_one_each() -> None:
    labels = np.repeat([0, 1, 2, 3, 4], [76, 1, 1, 1, 1])
    assert np.bincount(labels[draw_stratified(labels, 6, 0)]).tolist() == [2, 1, 1, 1, 1]


def test_rows_are_drawn_at_random_and_mixed() -> None:
    labels = np.repeat([0, 1], 50)
    one, other = (draw_stratified(labels, 20, seed) for seed in (0, 1))
    assert set(one.tolist()) != set(other.tolist())
    for rows in (one, *split_stratified(labels, 0.4, 0.2, 0)):
        assert 0 < labels[rows][: len(rows) // 2].mean() < 1  # not one class behind the other


def test_a_subset_is_proportional() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 101])
    assert np.bincount(labels[draw_stratified(labels, 100, 0)]).tolist() == [60, 30, 10]


def test_mistakes() -> None:
    with pytest.raises(DataError, match=r"validation to be a share in \[0, 1\).*validation=1.5"):
        check_shares(1.5, 0.1)
    with pytest.raises(DataError, match=r"less than 1 together; received 0.5 \+ 0.5"):
        check_shares(0.5, 0.5)
    with pytest.raises(DataError, match="each of 4 classes; received limit=3"):
        draw_stratified(np.arange(8) % 4, 3, 0)
