import json
from typing import ClassVar, Literal

import pytest

from secateurs.errors import SecateursError, StudyError
from secateurs.settings.base import Count, Document, Settings, Share


class Inner(Settings):
    share: Share = 0.5


class Kept(Document):
    format: Literal["secateurs-box"] = "secateurs-box"
    version: Literal[2] = 2
    count: Count = 1
    inner: Inner = Inner()
    command: tuple[str, ...] = ()
    code: ClassVar[dict[str, str]] = {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count: expected a number greater than or equal to 1; received int 0"),
        ({"cuont": 3}, "cuont: no such setting; did you mean 'count'?"),
        ({"inner": {"share": 1}}, r"^share: expected a number less than 1; received int 1"),
        ({"count": 0, "cuont": 1}, "^count: .*; cuont: "),
    ],
)
def test_what_is_wrong_is_told_on_one_line(values, message):
    with pytest.raises(SecateursError, match=message) as raised:
        Kept(**values)
    assert "\n" not in str(raised.value)


def test_what_is_missing_is_told():
    class Needs(Settings):
        name: str

    with pytest.raises(SecateursError, match="name: expected a value; received none"):
        Needs()


def test_settings_do_not_change():
    with pytest.raises(Exception, match="frozen"):
        Inner().share = 0.1


def test_it_is_kept_with_a_checksum_and_read_again(tmp_path):
    path = tmp_path / "box.json"
    mine = Kept(count=7, inner=Inner(share=0.25), command=("a",))
    mine.save(path)
    assert Kept.load(path) == mine
    path.write_text(path.read_text().replace("0.25", "0.35"))
    with pytest.raises(StudyError, match=r"box.json: cannot be read as a box's configuration"):
        Kept.load(path)
    path.write_text(mine.to_json())  # written by hand: without a checksum
    assert Kept.load(path) == mine


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "expected a box's configuration .*received something else"),
        ({"version": 3}, "expected version 2 of a box; received version 3"),
        ({"count": -1}, "box.json: count: expected a number greater"),
    ],
)
def test_another_file_is_refused(tmp_path, changes, message):
    path = tmp_path / "box.json"
    path.write_text(json.dumps(json.loads(Kept().to_json()) | changes))
    with pytest.raises(StudyError, match=message):
        Kept.load(path)


def test_differences_are_those_of_what_was_asked_for():
    one, other = Kept(count=2, command=("a",)), Kept(inner=Inner(share=0.25), command=("b",))
    assert one.differences(other) == ["count: 2, not 1", "inner.share: 0.5, not 0.25"]
    assert one.differences(one) == []
