"""Errors of user code on tensors without data are explained in one line, with its source line."""

import keras
import pytest

from secateurs.keras.model.code_errors import explain, line_of


def catch(function):
    with pytest.raises(Exception) as found:  # noqa: PT011 - what it raises is the test's matter
        function()
    return found.value


def test_the_reported_line_is_in_the_users_code():
    def code():
        return keras.ops.reshape(keras.ops.ones((2, 3)), (4, 4))

    error = catch(code)
    assert "test_code_errors.py:" in line_of(error)
    assert "return keras.ops.reshape" in line_of(error)
    assert explain(error).startswith("its code cannot run on symbolic tensors (")


def test_where_no_code_of_the_users_was_reached_there_is_no_line():
    error = ValueError(
        "Exception encountered when calling Own.call().\n\n\x1b[1mwrong shape\x1b[0m"
    )
    assert line_of(error) == ""
    assert explain(error) == "its code cannot run on symbolic tensors (ValueError: wrong shape)"


def test_a_reraised_error_is_explained_by_its_original():
    def code():
        raise ValueError("of values")

    def anew():
        try:
            code()
        except ValueError:
            compile("?", "<string>", "eval")

    error = catch(anew).with_traceback(None)
    assert "code_errors.py:" in line_of(error)
    assert "of values" in explain(error)
