"""Garbage collection is deferred while a trace is made."""

import gc

import pytest

from secateurs.channels.garbage import pause_garbage_collection


@pytest.fixture(autouse=True)
def switch_back_on():
    yield
    gc.enable()


def test_it_is_off_inside_and_on_again_after_an_error():
    @pause_garbage_collection()
    def fail():
        assert not gc.isenabled()
        raise KeyError("a")

    for _ in range(2):  # a decorator is used more than once
        with pytest.raises(KeyError):
            fail()
        assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off():
    gc.disable()
    with pause_garbage_collection():
        assert not gc.isenabled()
    assert not gc.isenabled()
