"""``--task`` and ``--metric``: users' models and data in every command that trains."""

import json
import uuid

import numpy as np
import pytest

import torchvision_on_cpu
from secateurs.cli import ExitCode, main
from secateurs.study.history import History
from support.own_tasks import TASKS, task_options

SHORT = ("--fine-tune-batches", "2", "--quiet", "--batch-size", "8")


@pytest.mark.parametrize("task", TASKS)
def test_a_study_of_a_task(task, mine, tmp_path):
    study = ("--directory", "s", "--rounds", "1", "--step", "0.3", "--tolerance", "0.9")
    assert main(["run", *task_options(mine, task), *SHORT, *study, "--criterion", "taylor"]) == 0
    history = History.load(tmp_path / "s" / "history.jsonl")
    assert history[0]["metric"]["name"] == TASKS[task][2]
    assert history[0]["metric"]["higher_is_better"] is not TASKS[task][3]
    assert history.of("prune")
    assert 0 <= history.last("stop")["dense_value"] < 100
    page = (tmp_path / "s" / "report" / "report.html").read_text()
    assert f"Validation {TASKS[task][2]}" in page
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["task"]["learning"] == task


def test_sensitivity_and_ablation_by_the_tasks_loss(mine, tmp_path, capsys):
    options = task_options(mine, "regression")
    assert main(["sensitivity", *options, "--amounts", "0.5", "--criterion", "taylor"]) == 0
    found = json.loads((tmp_path / "sensitivity" / "sensitivity.json").read_text())
    assert found["metric"]["name"] == "mean squared error"
    assert found["losses"]["0"] == pytest.approx(found["accuracies"]["0"], rel=1e-5)
    assert main(["ablate", *options]) == 0
    assert json.loads((tmp_path / "ablation" / "ablation.json").read_text())["groups"]["0"]
    capsys.readouterr()


def test_a_comparison_by_the_tasks_metric_over_macs_in_rounds(mine, tmp_path, capsys):
    compared = ("--strategies", "l1,taylor", "--amounts", "0.5", "--seeds", "2", "--directory", "c")
    kind = ("--unit", "macs", "--rounds", "2", "--metric", "mae")
    assert main(["compare", *task_options(mine, "regression"), *SHORT, *compared, *kind]) == 0
    printed = capsys.readouterr().out
    assert "Mean absolute error on the validation data" in printed
    assert "50 % of MACs removed" in printed
    found = json.loads((tmp_path / "c" / "results.json").read_text())
    assert all(0.45 < job["macs_removed"] < 0.65 for job in found["jobs"])
    rows = {(one["strategy"], one["seed"]): one["accuracy"] for one in found["jobs"]}
    (paired,) = found["paired"]
    gaps = [rows["taylor", seed] - rows["l1", seed] for seed in (0, 1)]
    assert paired["difference"] == pytest.approx(np.mean(gaps))
    reach = 12.7062 * np.std(gaps, ddof=1) / np.sqrt(2)  # Student's t of one degree of freedom
    assert paired["high"] - paired["difference"] == pytest.approx(reach, rel=1e-4)
    head = (tmp_path / "c" / "results.csv").read_text().splitlines()[0].split(",")
    assert "mean_absolute_error" in head
    assert "accuracy" not in head
    assert r"\toprule" in (tmp_path / "c" / "summary.tex").read_text()
    assert "mean absolute error" in (tmp_path / "c" / "compare.html").read_text()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_detector_in_every_command_that_looks_at_a_loss(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pycocotools")
    torchvision_on_cpu.let_detectors_run()
    name = f"boxes_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(
        "from support.detectors import batches, ssd\n\n"
        "def squares(seed=0):\n    return batches(2, seed), batches(1, seed + 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ("--model", f"{name}:ssd", "--data", f"{name}:squares", "--task", "detection")
    looked = ("--amounts", "0.5", "--criterion", "taylor", "--images", "2")
    assert main(["sensitivity", *options, *looked]) == 0
    assert "mAP at 50 %" in capsys.readouterr().out
    found = json.loads((tmp_path / "sensitivity" / "sensitivity.json").read_text())
    assert found["metric"]["name"] == "mAP"
    assert found["amounts"] == [0.5]
    assert main(["ablate", *options, "--images", "2", "--mode", "racing"]) == 0
    compared = ("--strategies", "taylor,random", "--amounts", "0.3", "--seeds", "1")
    assert main(["compare", *options, *compared, *SHORT, "--directory", "c", "--rounds", "2"]) == 0
    jobs = json.loads((tmp_path / "c" / "results.json").read_text())["jobs"]
    assert all(job["failure"] in (None, "") and job["params_removed"] > 0.25 for job in jobs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "regresion"), "did you mean 'regression'"),
        (("--task", "regression", "--metric", "acuracy"), "did you mean 'accuracy'"),
    ],
)
def test_an_unknown_task_is_refused(mine, options, message, capsys):
    given = ("--model", f"{mine}:regressor", "--data", f"{mine}:numbers")
    assert main(["run", *given, *options]) == ExitCode.BAD_INPUT
    assert message in capsys.readouterr().err


def test_a_function_that_gives_no_data_is_said(mine, capsys):
    given = ("--model", f"{mine}:regressor", "--data", f"{mine}:regressor", "--task", "regression")
    assert main(["run", *given]) == ExitCode.BAD_INPUT
    assert "expected (train, validation)" in capsys.readouterr().err


def test_where_nothing_met_the_tolerance_the_nearest_round_is_named():
    from secateurs.cli.run import describe_nearest

    history, trained = History(), {"loss": 1.0, "learning_rate": 0.1, "seconds": 1.0}
    sizes = {"params": 1000, "macs": 1000, "bytes": 4000, "channels": 40, "widths": {"a": 40}}
    history.append("dense", round=0, batch=0, model="m", data="d", criterion="l1", seed=0, **sizes)
    history.append("train", round=0, batch=5, accuracy=0.9, validation_loss=1.0, **trained)
    for number, params, accuracy in ((1, 800, 0.88), (2, 600, 0.885), (3, 400, 0.7)):
        left = {**sizes, "params": params}
        shown = {"max_difference": 1e-7, "tolerance": 1e-4, "inexact": [], "removed": 5}
        history.append("prune", round=number, batch=5, accuracy=0.5, **shown, **left)
        history.append(
            "train", round=number, batch=9, accuracy=accuracy, validation_loss=1, **trained
        )
    nearest, hint = describe_nearest(history)
    assert nearest.startswith("Nearest: round 2, 40.0 % of the parameters removed, validation")
    assert "88.5 %" in nearest
    assert "-1.5 points" in nearest
    assert hint.endswith("--tolerance 0.015.")
