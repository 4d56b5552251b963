"""Files that are damaged in one place or a few, drawn by hypothesis."""

import os

from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("SECATEURS_FUZZ", "60"))
"""How many inputs each fuzz test tries; nightly runs try more."""

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["²", "-1", "0", "1e9", "__class__", "a.weight"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def change_value(draw, data):
    """The data with one value somewhere in it replaced, left out or put in twice."""
    place = data
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, (dict, list)) and draw(st.integers(0, 3)):
            place = inner
            continue
        how = draw(st.sampled_from(["replace", "drop", "double"]))
        if how == "replace":
            place[key] = draw(VALUES)
        elif how == "drop":
            del place[key]
        elif isinstance(place, list):
            place.insert(key, inner)
        return


def broken(draw, content):
    """The content with some of its bytes changed."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)
