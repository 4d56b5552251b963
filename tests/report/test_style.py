import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secateurs.report import accuracy_over_batches, save
from secateurs.report.style import short, spread_out

heights = st.lists(st.floats(0, 100), min_size=1, max_size=7).map(sorted)


@given(heights, st.data())
def test_labels_keep_order_apart_and_inside(wanted: list[float], data: st.DataObject):
    sizes = data.draw(
        st.lists(st.floats(1, 14), min_size=len(wanted), max_size=len(wanted)), label="sizes"
    )
    centres = np.array(spread_out(wanted, sizes, room=100.0))
    apart = (np.array(sizes[1:]) + np.array(sizes[:-1])) / 2
    assert (np.diff(centres) >= apart - 1e-6).all()
    assert centres[0] - sizes[0] / 2 >= -1e-6
    assert centres[-1] + sizes[-1] / 2 <= 100 + 1e-6


def test_labels_that_do_not_collide_stay_where_they_are():
    assert spread_out([10, 50, 90], [10, 10, 10], 100) == [10, 50, 90]


def test_labels_that_collide_share_the_move():
    assert spread_out([50, 50], [10, 10], 100) == [45, 55]
    assert spread_out([20, 48, 52, 80], [10, 10, 10, 10], 100) == [20, 45, 55, 80]


def test_long_names_lose_their_beginning():
    assert short("layer1.0.conv1") == "layer1.0.conv1"
    assert short("features.denseblock1.denselayer12.conv2") == "…denseblock1.denselayer12.conv2"
    assert len(short("x" * 100)) == 32


def test_written_files_are_the_same_each_time(tmp_path: Path, make_history):
    history = make_history(3)
    first = save(accuracy_over_batches(history), tmp_path / "a", "accuracy")
    second = save(accuracy_over_batches(history), tmp_path / "b", "accuracy")
    assert [path.name for path in first] == ["accuracy.png", "accuracy.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in first[1].read_bytes()
    assert b"<dc:date>" not in first[1].read_bytes()


def test_users_settings_neither_change_nor_matter(make_history):
    history = make_history(2)
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "red", "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        axes = accuracy_over_batches(history).axes[0]
        assert dict(mpl.rcParams) == before
    assert axes.get_facecolor() == (1, 1, 1, 1)
    assert axes.xaxis.label.get_fontsize() < 12


def test_neither_pyplot_nor_a_framework_is_imported():
    seen = (
        "import sys, secateurs.report, secateurs.measurement.speed, secateurs.study.history;"
        "print([n for n in ('matplotlib.pyplot', 'torch', 'keras') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
