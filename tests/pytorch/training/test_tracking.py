"""Trackers get what the history holds: TensorBoard's file is read back, calls are recorded."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.cli import ExitCode, main
from secateurs.study.history import History

pytestmark = pytest.mark.filterwarnings("default")  # of what trackers are made of


def study(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 4)
    data = (x, (x[:, 0] > 0).long())
    training = sec.Training(batches=4, fine_tune_batches=2, batch_size=8, learning_rate=0.01)
    stop = sec.Stop(rounds=2, tolerance=None)
    return sec.iterate(
        model, data, data, training=training, stop=stop, step=0.25, measure_speed=False, **options
    )


def events(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def test_the_event_file_of_tensorboard_holds_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    result = study(track="tensorboard", directory=tmp_path / "s")
    found = events(tmp_path / "s" / "tracking" / "s")
    for kind, field in (("train", "accuracy"), ("train", "loss"), ("prune", "params")):
        expected = [(one["batch"], one[field]) for one in result.history.of(kind)]
        assert [step for step, _ in found[f"{kind}/{field}"]] == [step for step, _ in expected]
        values = [value for _, value in found[f"{kind}/{field}"]]
        assert np.allclose(values, [value for _, value in expected], rtol=1e-6)
    assert len(found["prune/params"]) == 2
    (settings,) = (tmp_path / "s" / "tracking" / "s").glob("*/hparams.yml")
    assert "training.batches: 4" in settings.read_text()


@pytest.fixture
def fake():
    """A tracker of the user's, registered with Accelerate; what it is told is kept."""
    from accelerate import tracking

    calls = []

    class Diary(tracking.GeneralTracker):
        name = "diary"
        requires_logging_directory = False

        def __init__(self, run_name):
            super().__init__()
            self.run_name = run_name
            calls.append(("made", run_name))

        @property
        def tracker(self):
            return calls

        def store_init_configuration(self, values):
            calls.append(("settings", values))

        def log(self, values, step=None, **_):
            calls.append((step, values))

        def finish(self):
            calls.append(("end", None))

    known = tracking.LOGGER_TYPE_TO_CLASS
    known["diary"] = Diary
    yield calls
    del known["diary"]


def test_one_that_is_registered_is_told_the_same_and_ended(fake):
    result = study(track=["diary"])
    assert fake[0][0] == "made"
    assert fake[1][1]["pruning.step"] == 0.25
    assert fake[-1] == ("end", None)
    logged = list(fake[2:-1])
    assert len(logged) == len(result.history[:, "kind"])
    losses = [values["train/loss"] for _, values in logged if "train/loss" in values]
    assert losses == [one["loss"] for one in result.history.of("train")]
    assert all(isinstance(step, int) for step, _ in logged)


def test_it_is_ended_where_the_study_fails(fake):
    with pytest.raises(RuntimeError, match="enough"):
        study(track="diary", watcher=Stopping())
    assert fake[-1] == ("end", None)


class Stopping(sec.Watcher):
    def recorded(self, record):
        if record["kind"] == "prune":
            raise RuntimeError("enough")


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ("tensorbord", "did you mean 'tensorboard'"),
        (["nothing"], "no tracker 'nothing'"),
        ("aim", "pip install aim"),
        (5, "a tracker's name, or several"),
    ],
)
def test_an_invalid_tracker_is_refused_before_anything_is_written(track, message, tmp_path):
    with pytest.raises(sec.SecateursError, match=message):
        study(track=track, directory=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    model_and_data = (
        "vanilla_cnn",
        "-o",
        "width=4",
        "--data",
        "digits",
        "--limit",
        "60",
        "--quiet",
    )
    short = ("--train-batches", "2", "--fine-tune-batches", "1", "--rounds", "1", "--step", "0.3")
    where = ("--directory", "s", "--no-measure-speed", "--tolerance", "0.9")
    assert main(["run", *model_and_data, *short, *where, "--track", "tensorboard"]) == 0
    history = History.load(tmp_path / "s" / "history.jsonl")
    found = events(tmp_path / "s" / "tracking" / "s")
    assert found["dense/params"][0][1] == history[0]["params"]
    capsys.readouterr()
    assert main(["run", *model_and_data, "--track", "tensorbord"]) == ExitCode.BAD_INPUT
    assert "did you mean 'tensorboard'" in capsys.readouterr().err
