import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import secateurs.report
from secateurs.errors import StudyError
from secateurs.report import write
from secateurs.study.history import History

OWN_SCRIPT = (Path(secateurs.report.__file__).parent / "page.js").read_text(encoding="utf-8")
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects tables, resources and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.resources: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data", "action"}:
                self.resources.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.open):
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what the page says beside its figures, which take most of the time."""
    monkeypatch.setattr("secateurs.report.page.FIGURES", ())


@pytest.fixture
def skip_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, and written as next to nothing."""
    monkeypatch.setattr("secateurs.report.style.render", lambda figure, kind: b"<svg/>")


@pytest.mark.usefixtures("skip_rendering")
def test_folder_holds_page_and_figures(tmp_path: Path, make_history):
    path = write(make_history(3), tmp_path / "report")
    assert path == tmp_path / "report" / "report.html"
    names = {one.name for one in path.parent.iterdir()}
    figures = {
        f"{one}.{kind}"
        for one in ("accuracy", "size", "speed", "widths")
        for kind in ("png", "svg")
    }
    assert names == {"report.html", *figures}


def test_page_holds_its_figures_and_asks_for_nothing(tmp_path: Path, make_history):
    path = write(make_history(3), tmp_path)
    page = Page(path)
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "url(" not in page.source
    assert page.source.count("<script") == 1  # the page's own, which sorts
    assert f"<script>{OWN_SCRIPT}</script>" in page.source
    assert len(page.resources) == 4
    for name, source in zip(("accuracy", "size", "speed", "widths"), page.resources, strict=True):
        kind, _, data = source.partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert base64.b64decode(data) == (tmp_path / f"{name}.svg").read_bytes()
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")  # noqa: S314  # our own
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.usefixtures("without_figures")
def test_headline_has_all_findings(tmp_path: Path, make_history):
    history = make_history(5, best_round=4)
    end, cut = history[-1], history.of("prune")[3]
    page_text = Page(write(history, tmp_path)).text
    assert (
        f"{100 * (1 - cut['params'] / history[0, 'params']):.1f} % of the parameters" in page_text
    )
    assert f"{100 * (1 - cut['macs'] / history[0, 'macs']):.1f} % of the MACs removed" in page_text
    assert f"{100 * (history.of('speed')[3, 'ratio'] - 1):.1f} % more images a second" in page_text
    low, high = (history.of("speed")[3, name] for name in ("low", "high"))
    assert f"half of the pairs {low:.2f} to {high:.2f}" in page_text
    assert f"validation accuracy {100 * end['accuracy']:.1f} %" in page_text
    change = 100 * (end["test_accuracy"] - end["dense_test_accuracy"])
    assert f"test accuracy {100 * end['test_accuracy']:.1f} % (+{change:.1f} points)." in page_text
    assert "The model kept is that of round 4." in page_text
    assert end["reason"] in page_text


@pytest.mark.usefixtures("without_figures")
def test_table_of_rounds_is_the_history(tmp_path: Path, make_history):
    history = make_history(5, best_round=4)
    page = Page(write(history, tmp_path))
    rows = page.tables[0][1:]
    assert len(rows) == 6
    assert rows[0][:5] == [
        "0",
        "4,800",
        f"{history[0, 'params']:,}",
        "0.0 %",
        f"{history[0, 'macs']:,}",
    ]
    for row, cut, speed in zip(rows[1:], history.of("prune"), history.of("speed"), strict=True):
        trained = [one for one in history.of("train") if one["round"] == cut["round"]]
        assert row == [
            str(cut["round"]),
            f"{cut['channels']:,}",
            f"{cut['params']:,}",
            f"{100 * (1 - cut['params'] / history[0, 'params']):.1f} %",
            f"{cut['macs']:,}",
            f"{100 * cut['accuracy']:.1f} %",
            f"{trained[-1]['batch'] - cut['batch']:,}",
            f"{100 * trained[-1]['accuracy']:.1f} %",
            f"{speed['ratio']:.2f}",
            f"{cut['max_difference']:.1e}",
        ]
    marked = re.search(r'<tr class="best"><td>(\d+)</td>', page.source)
    assert marked is not None
    assert marked.group(1) == "4"


@pytest.mark.usefixtures("without_figures")
def test_table_of_widths_is_that_of_the_best_model(tmp_path: Path, make_history):
    history = make_history(5, best_round=4)
    rows = Page(write(history, tmp_path)).tables[1][1:]
    after = history.of("prune")[3, "widths"]
    assert [row[0] for row in rows] == list(after)
    assert [row[1:3] for row in rows] == [
        [f"{history[0, 'widths'][name]:,}", f"{width:,}"] for name, width in after.items()
    ]


@pytest.mark.usefixtures("without_figures")
def test_proof_says_the_largest_difference_and_what_is_inexact(tmp_path: Path, make_history):
    history = make_history(4)
    history.of("prune")[1]["max_difference"] = 7.3e-5
    history.of("prune")[2]["inexact"] = ["mean over channels in head"]
    page_text = Page(write(history, tmp_path)).text
    assert "7.3e-05 (round 2), where 1.0e-04 was allowed; 4 of 4 cuts passed." in page_text
    assert "mean over channels in head" in page_text
    history.of("prune")[1]["max_difference"] = 2e-4
    assert "3 of 4 cuts passed." in Page(write(history, tmp_path)).text


@pytest.mark.usefixtures("without_figures")
def test_configuration_is_flat_and_the_command_can_be_pasted(tmp_path: Path, make_history):
    page = Page(
        write(
            make_history(1),
            tmp_path,
            title="Vehicles",
            configuration={
                "command": ["secateurs", "run", "--data", "folder:my cars"],
                "stop": {"drop": 0.01},
                "classes": ["red", "blue"],
                "folder": tmp_path,
            },
        )
    )
    settings = dict(page.tables[2])
    assert settings["criterion"] == "l1"
    assert settings["stop.drop"] == "0.01"
    assert settings["classes"] == '["red", "blue"]'
    assert "command" not in settings
    assert "secateurs run --data 'folder:my cars'" in page.text
    assert "<title>Vehicles</title>" in page.source


@pytest.mark.usefixtures("without_figures")
def test_everything_is_escaped(tmp_path: Path, make_history):
    bad = "<script>alert('&')</script>"
    history = make_history(2, {f"conv{bad}": 8, "b": 8})
    for record in history:
        for field in ("model", "data", "reason", "device"):
            if field in record:
                record[field] = bad
        if "inexact" in record:
            record["inexact"] = [bad]
    page = Page(write(history, tmp_path, configuration={bad: bad, "command": bad}))
    assert page.source.count("<script") == 1  # the page's own, which sorts
    assert f"<script>{OWN_SCRIPT}</script>" in page.source
    assert page.text.count(bad) >= 7
    assert "&lt;script&gt;" in page.source
    assert bad in Page(write(history, tmp_path, title=bad)).text


@pytest.mark.usefixtures("skip_rendering")
@pytest.mark.parametrize(
    "case",
    [
        {"rounds": 0, "stopped": False, "speeds": False},
        {"rounds": 0},
        {"rounds": 1, "stopped": False},
        {"rounds": 2, "best_round": 0},
        {"rounds": 2, "speeds": False},
    ],
    ids=str,
)
def test_studies_of_every_kind(tmp_path: Path, make_history, case: dict):
    page = Page(write(make_history(**case), tmp_path))
    assert ("speed" in page.ids) == (case.get("speeds", True) and case["rounds"] > 0)
    assert len(page.tables[0]) == 2 + case["rounds"]
    assert ("has not ended" in page.text) == (not case.get("stopped", True))


def test_same_history_gives_the_same_page(tmp_path: Path, make_history):
    first, second = (write(make_history(1), tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_empty_history_is_refused_and_nothing_is_written(tmp_path: Path):
    with pytest.raises(StudyError, match="nothing to compare with"):
        write(History(), tmp_path / "report")
    assert not (tmp_path / "report").exists()
