"""Each kind of argument: values that fit, and values that do not."""

import numpy as np
import pytest
from torch import nn

from secateurs.arguments import kinds
from secateurs.arguments.declaration import Kind
from secateurs.errors import CutError, SecateursError, UnknownNameError

LAYER = nn.Linear(2, 2)
CASES = {
    "SEED": ([0, 7], [-1, 1.0, True]),
    "SHARE": ([0.5], [0, 1, 1.5, np.nan]),
    "THRESHOLD": ([0, np.inf], [np.nan, True, "1"]),
    "NUMBERS": ([(0.5, 1), np.arange(2.0), 3], ["12", {1: 2}, True, [np.nan]]),
    "FUNCTION": ([len, lambda: 0], [int, LAYER, "len"]),
    "LOSS": ([None, len, LAYER], [nn.Linear, 3]),
    "CRITERION": (["l1", len], [3, LAYER, int]),
    "CRITERION_LIST": ([["l1", len], (), "l1", len], [3, [3]]),
    "NAMES": ([["a"], ("a", "b"), {"a"}], ["a", [""], [1]]),
    "ONE_OR_MORE_NAMES": ([["a"], {"a"}, "a"], ["", [""], [1], 1]),
    "CHANNELS": (
        [{"a": [0, 1]}, {LAYER: np.arange(2)}, {}, {"a": 1}],
        [
            {"a": -1},
            {"a": True},
            {"a": [0.5]},
            {"a": [True]},
            {3: [0]},
            {"a": np.eye(2, dtype=int)},
            ["a"],
        ],
    ),
    "SCORES": ([{"a": np.zeros(2)}], [{"a": 1}, {1: [1]}, [1]]),
    "MODEL": ([LAYER, object()], [nn.Linear, "resnet18", {}, [LAYER], None, 3]),
    "DATA_GIVEN": ([np.zeros(2), [1]], ["digits", 3, int]),
    "LAYERS": (["a", LAYER, ["a", LAYER]], [3, [""], [3]]),
    "BUDGET": ([None, "macs=0.5", {"macs": 0.5}], [0.5, ["macs"]]),
    "OUTPUTS": ([None, "logits", 0, ["a", 1]], ["", [], -1, 1.5, b"a"]),
    "PROOF": ([True, False, "independent"], ["Independent", 1, None]),
    "OPTIMIZER": ([None], ["sgd", 3]),
    "SENSITIVITY": ([], [{}, lambda: 0]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_kind_takes_what_it_says(name):
    kind = getattr(kinds, name)
    good, bad = CASES[name]
    for value in good:
        kind.check("call", "x", value)
    for value in bad:
        with pytest.raises(SecateursError, match=r"^call: x: expected .*; received ") as raised:
            kind.check("call", "x", value)
        assert type(raised.value) is kind.failure


def test_every_kind_is_tried():
    known = {name for name, value in vars(kinds).items() if isinstance(value, Kind)}
    assert known - {"NUMBER", "FLAG", "TEXT", "PATH"} == set(CASES)


def test_parametrised_kinds_check_their_bounds():
    kinds.whole_number(2).check("f", "n", 2)
    with pytest.raises(SecateursError, match="a whole number of at least 2; received int 1"):
        kinds.whole_number(2).check("f", "n", 1)
    kinds.whole_number(2, 1000).check("f", "n", 1000)
    with pytest.raises(SecateursError, match="a whole number from 2 to 1,000; received int 1001"):
        kinds.whole_number(2, 1000).check("f", "n", 1001)
    box = kinds.instance(Kind, "a Kind", CutError, "Make one.")
    with pytest.raises(CutError, match=r"f: k: expected a Kind; received int 3\. Make one\."):
        box.check("f", "k", 3)
    with pytest.raises(UnknownNameError):
        kinds.CRITERION.check("f", "c", 3)
