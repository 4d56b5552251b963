"""One process at a time in a directory: a lock that its owner's death releases.

The lock is the kernel's, on a file in the directory, so nothing that happens to the owner (kill -9,
a power cut) leaves the directory locked; the file's text only says whom to look for. It is a lock
of ``fcntl.lockf``, which works over NFS and is not handed on to forked children, such as workers of
a data loader, that may outlive their parent.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from secateurs.errors import StudyError

_HAS_LOCKS = importlib.util.find_spec("fcntl") is not None
"""Not on Windows: there two processes in one directory are the user's to avoid."""

LOCK = ".lock"

# The kernel's lock is the process's: it does not tell two studies of one process apart.
_guard = threading.Lock()
_held: set[tuple[int, Path]] = set()


@contextmanager
def occupy(
    place: Path,
    *,
    refuse: Callable[[], None],
    begin: Callable[[], bool],
    give_up: Callable[[], None],
) -> Iterator[None]:
    """Work in a directory, alone; where that fails at once, leave things as they were.

    Args:
        place: made if it is not there.
        refuse: raises where the work cannot be done here; called before anything is written.
        begin: makes the directory ready; whether the work is new.
        give_up: removes what new work has written, unless it is worth keeping.

    Raises:
        StudyError: somebody else is at work there, or it cannot be made.
    """
    refuse()
    made = _make(place)
    begun = False
    try:
        with hold_lock(place):
            begun = begin()
            yield
    except Exception:
        if begun:
            with suppress(StudyError):
                give_up()
        for folder in reversed(made):
            with suppress(OSError):  # there is something in it
                folder.rmdir()
        raise


def _make(place: Path) -> list[Path]:
    """Make a directory; those that were not there, the outermost first."""
    try:
        missing = [folder for folder in (place, *place.parents) if not folder.exists()]
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"{str(place)!r}: cannot be made a directory: {reason}") from error
    return missing[::-1]


@contextmanager
def hold_lock(directory: Path) -> Iterator[None]:
    """Hold a directory, which is there, for as long as the context lasts.

    Raises:
        StudyError: somebody else holds it, or it cannot be written to.
    """
    key = os.getpid(), directory.resolve()
    with _guard:
        if key in _held:
            raise StudyError(_refusal(directory, "another call in this process"))
        _held.add(key)
    try:
        handle = _acquire(directory)
        try:
            yield
        finally:
            # Gone while it is still held, so that whoever waits for it finds no file of ours.
            with suppress(OSError):
                (directory / LOCK).unlink()
            with suppress(OSError):
                os.close(handle)
    finally:
        with _guard:
            _held.discard(key)


def check_free(directory: Path) -> None:
    """Find out whether a directory is somebody else's at the moment; it need not be there.

    Raises:
        StudyError: it is.
    """
    with suppress(OSError, ValueError):  # a name that no file can have is for others to say
        if not _HAS_LOCKS or not (directory / LOCK).exists():
            return
        if (os.getpid(), directory.resolve()) in _held:
            raise StudyError(_refusal(directory, "another call in this process"))
        handle = os.open(directory / LOCK, os.O_RDWR)
        try:
            _try(handle, directory)
        finally:
            os.close(handle)


def _acquire(directory: Path) -> int:
    """A handle of the directory's lock file, which is locked."""
    path = directory / LOCK
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StudyError(f"{path}: cannot be written: {error.strerror or error}") from error
        try:
            _try(handle, directory)
            # The last owner may have removed the file between our opening and our locking it.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                os.ftruncate(handle, 0)
                os.write(handle, _owner().encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _try(handle: int, directory: Path) -> None:
    if not _HAS_LOCKS:
        return
    import fcntl

    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # POSIX allows either
        owner = os.pread(handle, 200, 0).decode(errors="replace").strip()
        raise StudyError(_refusal(directory, owner or "another process")) from error
    except OSError:
        return  # a file system without locks


def _refusal(directory: Path, owner: str) -> str:
    return (
        f"{directory}: expected a directory in which nobody is at work; received one that {owner} "
        "is working in. Wait for it or stop it, or choose another directory."
    )


def _owner() -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} (since {began})\n"
