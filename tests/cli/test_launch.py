"""Several processes from the shell, on a machine without accelerators."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import secateurs as sec
from secateurs.cli import launch
from secateurs.errors import SecateursError
from secateurs.pytorch.training import processes

STUDY = (
    *("run", "--model", "vanilla_cnn", "--width", "4", "--option", "hidden=12"),
    *("--data", "digits", "--limit", "200", "--no-measure-speed", "--batch-size", "32"),
    *("--train-batches", "6", "--fine-tune-batches", "3", "--rounds", "1", "--tolerance", "0.9"),
)
LAUNCH = Path(sys.executable).parent / "accelerate-launch"


@pytest.fixture
def below_launcher(monkeypatch):
    """As if below ``accelerate launch`` that was asked for several processes."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


on_cpus = pytest.mark.skipif(
    torch.accelerator.is_available() or not LAUNCH.exists(),
    reason="accelerate starts the processes itself, or its command is not installed",
)


def carry_out(directory, *launcher, options=()):
    """(the finished process, the history) of the study, as a launcher starts it."""
    done = subprocess.run(
        [*launcher, "-m", "secateurs", *STUDY, *options, "--directory", str(directory)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    # Under load, PyTorch's threads abort one in several processes that use Gloo while Python ends.
    assert done.returncode == 0 or "terminate called without" in done.stderr, done.stderr
    return done, sec.History.load(directory / "history.jsonl")


@on_cpus
def test_accelerate_launch_of_two_is_two_that_end_as_one(tmp_path):
    _, single = carry_out(tmp_path / "one", sys.executable)
    done, together = carry_out(tmp_path / "two", LAUNCH, "--num_processes", "2")
    assert "starts one process on CPUs; starting 2" in done.stderr
    assert done.stdout.count("Ended: ") == 1
    assert together[:, "accuracy"] == pytest.approx(single[:, "accuracy"], abs=0.01)
    losses = together[:, "validation_loss"]
    assert losses == pytest.approx(single[:, "validation_loss"], rel=1e-3)
    assert losses != single[:, "validation_loss"]  # sums of parts are rounded otherwise
    assert together[-1, "best_round"] == single[-1, "best_round"]


@on_cpus
def test_two_that_share_a_model_in_bf16_end_as_two_that_do_not(tmp_path):
    pair, options = (LAUNCH, "--num_processes", "2"), ("--precision", "bf16")
    shared = (*pair, "--use_fsdp", "--fsdp_version", "2")
    _, whole = carry_out(tmp_path / "whole", *pair, options=options)
    _, split = carry_out(tmp_path / "shared", *shared, options=options)
    for column in ("kind", "accuracy", "params"):
        assert split[:, column] == whole[:, column]
    losses = split[:, "validation_loss"]
    assert losses == pytest.approx(whole[:, "validation_loss"], rel=1e-3)
    _, exact = carry_out(tmp_path / "exact", *shared)
    assert losses != pytest.approx(exact[:, "validation_loss"], rel=1e-4)


def test_one_process_of_several_is_refused_in_python(below_launcher):
    with pytest.raises(SecateursError, match=r"it starts one.*torchrun --nproc-per-node"):
        processes.check_launch()


def test_one_process_that_is_meant_goes_on(below_launcher, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launch.start_missing_processes(["run"]) is None
    processes.check_launch()


def test_what_was_asked_for_cannot_be_found_out(below_launcher):
    with pytest.raises(SecateursError, match=r"torchrun --nproc-per-node 2 -m secateurs run"):
        launch.start_missing_processes(["run", "--preset", "demo"])


def test_one_that_fails_ends_the_others():
    code = "import os, sys, time; os.environ['RANK'] == '1' and sys.exit(2); time.sleep(300)"
    assert launch.run_together([sys.executable, "-c", code], 2) == 2
    together = "import os; assert os.environ['WORLD_SIZE'] == '3' and os.environ['MASTER_PORT']"
    assert launch.run_together([sys.executable, "-c", together], 3) == 0


def test_one_that_is_killed_is_named_since_it_cannot_say_so(capsys):
    code = (
        "import os, signal, time\n"
        "os.environ['RANK'] == '2' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(300)"
    )
    assert launch.run_together([sys.executable, "-c", code], 3) == 128 + 9
    message = capsys.readouterr().err
    assert message == (
        "secateurs: error: process 2 was ended by SIGKILL; the others are stopped too\n"
    )


@pytest.mark.skipif(not LAUNCH.exists(), reason="accelerate's command is not installed")
@pytest.mark.skipif(torch.accelerator.is_available(), reason="accelerate starts them itself")
def test_an_error_of_one_of_several_processes_is_one_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "def broken(facts):\n"
        "    if os.environ.get('RANK') == '1':\n"
        "        raise ValueError('not on this one')\n"
        "    return [abs(rows).sum() for rows in facts.filters[0]]\n"
    )
    ours = (*STUDY, "--criterion", "mine.py:broken", "--directory", "study")
    done = subprocess.run(
        [LAUNCH, "--quiet", "--num_processes", "2", "-m", "secateurs", *ours],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode != 0
    *_, started, error = done.stderr.splitlines()
    assert "starting 2" in started
    assert "process 1: mine.py:broken" in error
    assert "ValueError: not on this one" in error
