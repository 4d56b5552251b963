"""Start several processes on a CPU, where ``accelerate launch`` starts only one.

``accelerate launch --num_processes 2 -m secateurs run ...`` starts processes itself on GPUs only;
on CPUs it starts one (unless it is given hosts for mpirun) without a message. The requested number
is read from the launcher's command line.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from secateurs.cli.show import console, error_line
from secateurs.errors import SecateursError

WATCHED = "SECATEURS_WATCHED"
"""Environment variable of processes started here; the parent reports which failed first."""

_LOOK_EVERY, _NOTICE, _PATIENCE = 0.1, 2.0, 10.0


def start_missing_processes(arguments: Sequence[str]) -> int | None:
    """Start the requested processes if the launcher started only this one.

    Args:
        arguments: Arguments of the command, without the program's name.

    Returns:
        The exit status of the processes when they are done; None if this process is to continue.

    Raises:
        SecateursError: the requested number is unknown.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:  # not below accelerate launch
        return None
    from secateurs.pytorch.training.processes import was_launched_alone

    if not was_launched_alone():
        return None
    count, machines = _read_processes()
    if count is None or machines != 1:
        raise SecateursError(
            "accelerate launch: expected the number of processes that was asked for; it started "
            "one, as it does on CPUs. Start them with: torchrun --nproc-per-node 2 -m secateurs "
            f"{' '.join(arguments[:1])} ..."
        )
    console(stderr=True).print(f"accelerate launch starts one process on CPUs; starting {count}")
    return run_together([sys.executable, "-m", "secateurs", *arguments], count)


def run_together(command: Sequence[str], count: int) -> int:
    """Run a command in several connected processes; end all of them when one fails.

    A process that fails prints its own error; one that is killed cannot, so it is reported here.
    The others print nothing about errors that follow from its end.

    Args:
        command: Command line of each process.
        count: Number of processes.

    Returns:
        0, or the exit status of the first process that failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    together |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), WATCHED: "1"}
    running = [
        subprocess.Popen(  # noqa: S603 - this very command
            command, env=os.environ | together | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(count)
    ]
    try:
        return _first_failure(running)
    finally:
        _end(running)


def _first_failure(running: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        ended = [process.poll() for process in running]
        failed = [(rank, status) for rank, status in enumerate(ended) if status]
        if failed:
            return _exit_status(*failed[0])
        if None not in ended:
            return 0
        time.sleep(_LOOK_EVERY)


def _exit_status(rank: int, status: int) -> int:
    if status > 0:
        return status
    name = signal.Signals(-status).name
    error_line(f"process {rank} was ended by {name}; the others are stopped too")
    return 128 - status


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """End all processes; first wait for those that notice the failure and end by themselves."""
    last = time.monotonic() + _NOTICE
    while time.monotonic() < last and any(process.poll() is None for process in running):
        time.sleep(_LOOK_EVERY)
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        if process.poll() is None:
            process.kill()


def _read_processes() -> tuple[int | None, int]:
    """Return (processes, machines) as requested from the launcher of this process."""
    from accelerate.commands import launch
    from psutil import Error, Process

    try:
        words = Process(os.getppid()).cmdline()
        at = next(n for n, word in enumerate(words) if word.endswith("launch"))
        parsed = launch.launch_command_parser().parse_args(words[at + 1 :])
        settings, _, _ = launch._validate_launch_command(parsed)
    except (Error, StopIteration, SystemExit, ValueError, OSError):
        return None, 1
    return settings.num_processes, settings.num_machines or 1
