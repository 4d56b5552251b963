"""One process at a time in a directory, whatever happens to it."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import secateurs as sec
from secateurs.study.lock import LOCK, check_free, hold_lock, occupy

HOLDS = (
    "import sys, time, pathlib; from secateurs.study.lock import hold_lock\n"
    "with hold_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the directory."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_at_once_with_the_owner(tmp_path, holder):
    for ask in (lambda: hold_lock(tmp_path).__enter__(), lambda: check_free(tmp_path)):
        with pytest.raises(sec.StudyError, match=f"process {holder.pid} on .* is working in"):
            ask()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_dies_with_its_owner(tmp_path, holder, how):
    holder.send_signal(how)
    holder.wait(10)
    check_free(tmp_path)
    with hold_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_two_threads_of_one_process_are_two(tmp_path):
    output = []

    def second():
        try:
            with hold_lock(tmp_path):
                output.append("held")
        except sec.StudyError as error:
            output.append(str(error))

    with hold_lock(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        other.join()
    assert "another call in this process" in output[0]
    with hold_lock(tmp_path):
        pass


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    reader, writer = os.pipe()
    with hold_lock(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)  # a worker that outlives its parent
            os._exit(0)
    with hold_lock(tmp_path):
        pass
    os.close(writer)
    os.waitpid(child, 0)


def test_work_that_fails_at_once_leaves_no_directory(tmp_path):
    place = tmp_path / "a" / "b"
    gave_up = []

    def begin():
        (place / "file").write_text("x")
        return True

    def give_up():
        (place / "file").unlink()
        gave_up.append(True)

    def fail():
        with occupy(place, refuse=lambda: None, begin=begin, give_up=give_up):
            raise sec.DataError("of one class")

    with pytest.raises(sec.DataError):
        fail()
    assert gave_up == [True]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_name_that_no_directory_can_have_is_said(tmp_path, name):
    with (
        pytest.raises(sec.StudyError, match="cannot be made a directory"),
        occupy(tmp_path / name, refuse=lambda: None, begin=lambda: True, give_up=lambda: None),
    ):
        pass
