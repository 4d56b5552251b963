"""Exclusive use of a directory by one process, by a lock that is released when its owner dies.

The lock is the kernel's, on a file in the directory, so whatever happens to the owner (kill -9, a
power cut), the directory does not stay locked; the file's text only names the owner. It is a lock
of ``fcntl.lockf``, which works over NFS and is not inherited by forked children, such as data
loader workers, that may outlive their parent.
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
"""False on Windows, where users must avoid running two processes in one directory."""

LOCK = ".lock"

# The kernel's lock belongs to the process: it does not separate two studies in one process.
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
    """Work in a directory exclusively; if that fails early, restore the previous state.

    Args:
        place: directory; created if it does not exist.
        refuse: function that raises if the directory cannot be used; called before any writing.
        begin: function that prepares the directory; returns whether the work is new.
        give_up: function that removes what new work has written, unless it is worth keeping.

    Raises:
        StudyError: another process uses the directory, or it cannot be created.
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
            with suppress(OSError):  # the folder is not empty
                folder.rmdir()
        raise


def _make(place: Path) -> list[Path]:
    """Create a directory; returns the created folders, the outermost first."""
    try:
        missing = [folder for folder in (place, *place.parents) if not folder.exists()]
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"{str(place)!r}: cannot be made a directory: {reason}") from error
    return missing[::-1]


@contextmanager
def hold_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of an existing directory for the duration of the context.

    Raises:
        StudyError: another process holds it, or the directory cannot be written to.
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
            # Removed while the lock is held, so that no waiting process finds our file.
            with suppress(OSError):
                (directory / LOCK).unlink()
            with suppress(OSError):
                os.close(handle)
    finally:
        with _guard:
            _held.discard(key)


def check_free(directory: Path) -> None:
    """Check that no process uses a directory at the moment; it need not exist.

    Raises:
        StudyError: one does.
    """
    with suppress(OSError, ValueError):  # invalid names are reported elsewhere
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
    """Open and lock the directory's lock file; returns its handle."""
    path = directory / LOCK
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StudyError(f"{path}: cannot be written: {error.strerror or error}") from error
        try:
            _try(handle, directory)
            # The last owner may have removed the file between our opening and locking it.
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
        return  # the file system has no locks


def _refusal(directory: Path, owner: str) -> str:
    return (
        f"{directory}: expected a directory that no other process uses; received one that {owner} "
        "is working in. Wait for it or stop it, or choose another directory."
    )


def _owner() -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} (since {began})\n"
