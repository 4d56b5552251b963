import pytest

from secateurs.reconstruction.fidelity import Fidelity
from secateurs.reconstruction.report import FidelityReport, Stage


def fidelity(distance, **options):
    return Fidelity(
        distance=distance,
        **{"agreement": 0.9, "images": 8, "error": 0.01, "kind": "categorical"} | options,
    )


@pytest.fixture
def report():
    stages = (Stage("dropped", fidelity(0.5), 1.0), Stage("repaired", fidelity(0.1), 2.0))
    return FidelityReport(stages, "repaired", 64, seconds=3.0)


def test_stages_are_looked_up_by_name(report):
    assert report["dropped"].distance == 0.5
    assert report.fidelity.distance == 0.1
    assert "repaired" in report
    assert "distilled" not in report
    assert [stage.name for stage in report] == ["dropped", "repaired"]


def test_one_more_step_is_kept_or_not(report):
    step = Stage("distilled", fidelity(0.05))
    assert report.with_stage(step, keeps=True).kept == "distilled"
    worse = report.with_stage(step, keeps=False)
    assert worse.kept == "repaired"
    assert worse["distilled"].distance == 0.05


def test_it_says_how_far_its_figures_go(report):
    text = str(report)
    assert "repaired *" in text
    assert "Ranking and curves took 3.0 s." in text
    assert (
        "Evaluated on 8 of 64 calibration images, which were held out: accurate to about 0.01"
        in text
    )
    assert "nothing is known about other" in report.trust
    second = FidelityReport(report.stages, "repaired", 64, second_domain=fidelity(0.7))
    assert "On the second domain: " in second.trust
