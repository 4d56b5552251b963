from pathlib import Path

import pytest

from secateurs.cli import ExitCode, main, run
from secateurs.cli.presets import PRESETS
from support.shell import FACTORIES


@pytest.fixture
def place(place):
    """It also holds a module of models and data."""
    (place / "factories_of_the_test.py").write_text(FACTORIES)
    return place


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_studies_of_small_rounds(name, place, capsys, monkeypatch):
    chosen = {}
    monkeypatch.setattr(run, "run_configuration", lambda c, d, **_: chosen.update(one=c, place=d))
    assert main(["run", "--preset", name]) == ExitCode.FINE
    # The documents' rounds take 5 %; the demo's are repaired, and take twice as much.
    assert chosen["one"].pruning.step == (0.1 if name == "demo" else 0.05)
    assert chosen["one"].training.batches == PRESETS[name]["train_batches"]
    assert chosen["one"].task.model == "resnet18"
    assert chosen["place"] == Path("runs") / name


def test_a_preset_is_changed_by_options(monkeypatch):
    chosen = {}

    def note_study(configuration, directory, **_):
        chosen.update(configuration=configuration, directory=directory)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_configuration", note_study)
    main(["run", "--preset", "demo", "--width", "5", "--rounds", "3"])
    demo = PRESETS["demo"]
    assert chosen["configuration"].task.model_options["width"] == 5
    assert chosen["configuration"].stop.rounds == 3
    assert chosen["configuration"].training.batches == demo["train_batches"]
    assert chosen["configuration"].task.data_options["validation"] == demo["validation"]
    assert chosen["directory"] == Path("runs/demo")
