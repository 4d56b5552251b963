"""Jobs that kill their process, in a module that a spawned process can import."""

import os
import signal

from secateurs.comparison.job_runner import Outcome


def carry_out(order):
    """An outcome; where the strategy is called "fatal", the end of the process."""
    if order.job.strategy == "fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(order.job.strategy, order.job.amount, order.job.seed, params=7)
