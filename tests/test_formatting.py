import pytest

from secateurs import formatting


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1500, "1.5 k"),
        (1234567, "1.23 M"),
        (4.1e9, "4.1 G"),
        (2e12, "2 T"),
        (-2e6, "-2 M"),
    ],
)
def test_counts(number, text):
    assert formatting.count(number) == text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (0.003, "+0.3 points"),
        (-0.012, "\u22121.2 points"),
        (0.0004, "\xb10.0 points"),
        (-0.0004, "\xb10.0 points"),
    ],
)
def test_points_have_a_sign_but_nothing_has_none(change, text):
    assert formatting.points(change) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([4], "4"), ([0, 1, 2, 7], "0-2, 7"), ([1, 3, 4], "1, 3-4")],
)
def test_ranges(numbers, text):
    assert formatting.ranges(numbers) == text


def test_shares_and_sizes():
    assert formatting.percent(0.1234) == "12.3 %"
    assert formatting.megabytes(15_300_000) == "15.30 MB"


def test_a_table_aligns_its_columns():
    text = formatting.table(("name", "number"), [("a", "1"), ("longer", "100")], right=(1,))
    lines = text.splitlines()
    assert [line[-3:] for line in lines[-2:]] == ["  1", "100"]
    assert lines[-1].startswith("longer")
    assert lines[0].split() == ["name", "number"]
    assert all(line == line.rstrip() for line in lines)
    assert "[bold]" in formatting.table(("a",), [("[bold]",)])  # no markup


def test_a_notebook_shows_text_as_it_is():
    assert formatting.notebook_html("a <b>").endswith("a &lt;b&gt;</pre>")
