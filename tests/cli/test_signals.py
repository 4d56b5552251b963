"""A study that is told to stop: by a scheduler, a closed terminal, Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secateurs.study.disk_store import read_position

STUDY = (
    *("run", "--model", "vanilla_cnn", "--width", "4", "--option", "hidden=12"),
    *("--data", "digits", "--limit", "200", "--no-measure-speed", "--evaluate-every", "2"),
    *("--train-batches", "100000", "--batch-size", "16", "--directory", "a study"),
)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_a_study_that_says_how_to_go_on(tmp_path, name):
    number = signal.Signals[name]
    with subprocess.Popen(
        [sys.executable, "-m", "secateurs", *STUDY],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509 - nohup ignores it
    ) as process:
        try:
            _wait_for(tmp_path / "a study" / "checkpoint.safetensors")
            process.send_signal(number)
            _, output = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    kept = read_position(tmp_path / "a study")
    assert kept.batch > 0
    assert (
        f"saved up to batch {kept.batch}, round 0; continue with: secateurs run --resume 'a study'"
        in output
    )
    assert "Traceback" not in output
    assert not list((tmp_path / "a study").glob(".*"))  # neither lock nor temporary file


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 240
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()


HANDLERS = """
import os, signal
from secateurs.cli.signals import ending_signals

before = signal.getsignal(signal.SIGTERM)
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
try:
    with ending_signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit("SIGTERM did not interrupt")
except KeyboardInterrupt:
    assert signals.received is signal.SIGTERM
assert signal.getsignal(signal.SIGTERM) is before
"""


def test_handlers_are_put_back_and_what_is_ignored_stays_so():
    # In a process of its own: Ray, which another test starts in this one, handles SIGTERM too.
    subprocess.run([sys.executable, "-W", "ignore", "-c", HANDLERS], check=True)
