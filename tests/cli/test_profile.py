from secateurs.cli import main
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.latency_model import TERMS, LatencyModel
from support.shell import CNN, read_output


def test_profile_tells_what_was_measured(place, capsys, monkeypatch):
    costs = tuple(1.0 if term == "constant" else 0.0 for term in TERMS)
    asked = {}

    def profile(model, example, **given):
        asked.update(given)
        conditions = Conditions(runtime=given["runtime"], threads=given["threads"])
        return LatencyModel(conditions, 1, 4.0, costs, (0.03, -0.1), 8, {1: (1.25, 0.5)})

    monkeypatch.setattr("secateurs.planning.profiling.profile", profile)
    assert main(["profile", *CNN, "--runtime", "onnxruntime", "--threads", "0"]) == 0
    out, _ = read_output(capsys)
    assert asked["threads"] is None
    assert "onnxruntime, its own threads: 4 ms dense (250 a second)" in out
    assert "within 6.5% (median) and 10.0% (worst of 2 cuts" in out
    assert "a cut at any width is not faster than the dense model here" in out
