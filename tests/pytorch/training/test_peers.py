"""Sums and values of two real processes."""

import json

import pytest

from support.launched import run_in_two_processes


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    place = tmp_path_factory.mktemp("peered")
    run_in_two_processes("peered", place, 200)
    return [json.loads((place / f"process-{rank}.json").read_text()) for rank in range(2)]


def test_each_process_gets_the_sums_of_all(pair):
    for found in pair:
        matrix, number, empty = found["total"]
        assert matrix == [[1 / 3 + 2 / 3] * 2] * 2  # in double precision
        assert (number, empty, found["nothing"]) == (3.0, [], [])


def test_values_come_in_the_order_of_the_processes(pair):
    assert all(found["gathered"] == [{"rank": 0}, {"rank": 1}] for found in pair)
    assert [found["in main"] for found in pair] == [[[1, 1], [2, 2]], []]


def test_results_and_errors_of_the_first_process_reach_the_other(pair):
    assert [(found["count"], found["main"], found["error"]) for found in pair] == [
        (2, 1, "too small")
    ] * 2
