"""Garbage collection is deferred while a trace is made."""

import gc

import pytest

from secateurs.channels.garbage import pause_garbage_collection


@pytest.fixture(autouse=True)
def switch_back_on():
    yield
    gc.enable()


def test_collection_is_disabled_inside_and_enabled_after_an_error():
    @pause_garbage_collection()
    def fail():
        assert not gc.isenabled()
        raise KeyError("a")

    for _ in range(2):  # a decorator is used more than once
        with pytest.raises(KeyError):
            fail()
        assert gc.isenabled()


def test_collection_disabled_by_the_user_stays_disabled():
    gc.disable()
    with pause_garbage_collection():
        assert not gc.isenabled()
    assert not gc.isenabled()
