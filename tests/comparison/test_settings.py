import json

import pytest

from comparison.conftest import settings_of
from secateurs.comparison import (
    Comparison,
    parse_job,
)
from secateurs.errors import SecateursError, StudyError


def test_a_strategy_has_a_criterion_and_a_scope():
    assert parse_job("l1", "group") == ("l1", "group")
    assert parse_job("l1@network", "group") == ("l1", "network")
    assert parse_job("auto", "network") == ("auto", "network")
    assert parse_job("numpy:ones@group", "network") == ("numpy:ones", "group")


def test_settings_go_to_json_and_back(tmp_path):
    comparison = settings_of(amounts=(0.5, 0.9), skip=("stem",))
    path = tmp_path / "comparison.json"
    path.write_text(comparison.to_json())
    assert Comparison.load(path) == comparison
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9}))
    with pytest.raises(StudyError, match="expected version 1 of a comparison; received version 9"):
        Comparison.load(path)


def test_an_excessive_number_of_seeds_is_refused():
    with pytest.raises(SecateursError, match="seeds: expected a number less than or equal to"):
        settings_of(seeds=99_999_999)
