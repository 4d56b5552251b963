"""Scripts of ``support``, each in two processes that train together."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def run_in_two_processes(script, place, seconds):
    """Run ``support.SCRIPT`` with a directory as its argument; it must end well in this time."""
    launched = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    with subprocess.Popen(
        [sys.executable, *launched, "-m", f"support.{script}", str(place)],
        cwd=TESTS,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        try:
            _, message = launcher.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # it ends the processes that it started
            raise
    assert launcher.returncode == 0, message
