import time
from collections.abc import Callable
from pathlib import Path

import pytest

from secateurs.errors import UnknownNameError
from secateurs.measurement.speed import Speed, file_bytes, latency, ratio, throughput


class Machine:
    """A clock that moves only when something runs: by its cost times how busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0
        self.busy = 1.0
        self.ran: list[str] = []

    def clock(self) -> float:
        return self.now

    def takes(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.ran.append(name)
            self.now += seconds * self.busy

        return run


def test_images_a_second_by_an_exact_clock():
    machine = Machine()
    runs = {"small": machine.takes("small", 0.25), "dense": machine.takes("dense", 0.5)}
    speeds = throughput(runs, 8, repeats=5, seconds=1.0, clock=machine.clock)
    assert speeds["small"].samples == (32.0,) * 5
    assert speeds["dense"].median == speeds["dense"].low == speeds["dense"].high == 16.0
    assert ratio(speeds["small"], speeds["dense"]).median == 2.0


def test_milliseconds_by_an_exact_clock():
    machine = Machine()
    found = latency({"a": machine.takes("a", 0.25)}, repeats=3, seconds=1, clock=machine.clock)
    assert found["a"].samples == (250.0,) * 3


def test_runs_take_turns_in_random_order_after_a_warm_up():
    machine = Machine()
    runs = {name: machine.takes(name, 1.0) for name in "ABC"}
    throughput(runs, 1, repeats=40, seconds=1.0, clock=machine.clock)
    warm_up, passes = machine.ran[:6], machine.ran[6:]
    assert sorted(warm_up) == list("AABBCC")
    turns = ["".join(passes[start : start + 3]) for start in range(0, len(passes), 3)]
    assert len(turns) == 40
    assert all(sorted(turn) == list("ABC") for turn in turns)
    assert len(set(turns)) == 6, "every order comes up"


def test_first_call_is_not_timed():
    machine = Machine()
    costs = iter([1000.0])

    def compiles_first() -> None:
        machine.now += next(costs, 0.5)

    speeds = throughput({"a": compiles_first}, 1, repeats=3, seconds=1.0, clock=machine.clock)
    assert speeds["a"].samples == (2.0,) * 3


def test_short_calls_are_repeated_until_a_sample_is_long_enough():
    machine = Machine()
    throughput({"a": machine.takes("a", 1 / 64)}, 1, repeats=2, seconds=1.0, clock=machine.clock)
    assert len(machine.ran) == 1 + 64 + 2 * 64


def test_noise_that_hits_both_leaves_the_ratio():
    machine = Machine()

    def ever_busier(name: str, seconds: float) -> Callable[[], None]:
        run = machine.takes(name, seconds)

        def record_passes() -> None:
            passes = max(0, len(machine.ran) - 4) // 2  # 4 calls warm up, 2 are a pass
            machine.busy = 1.0 + passes
            run()

        return record_passes

    runs = {"fast": ever_busier("fast", 1.0), "slow": ever_busier("slow", 3.0)}
    speeds = throughput(runs, 4, repeats=9, seconds=1.0, clock=machine.clock)
    assert speeds["fast"].samples == pytest.approx([4 / busy for busy in range(1, 10)])
    assert ratio(speeds["fast"], speeds["slow"]).samples == pytest.approx([3.0] * 9)


def test_ratio_is_pairwise_not_of_medians():
    fast, slow = Speed((1.0, 4.0, 10.0)), Speed((1.0, 1.0, 5.0))
    found = ratio(fast, slow)
    assert found.samples == (1.0, 4.0, 2.0)
    assert (found.low, found.median, found.high) == (1.5, 2.0, 3.0)
    assert fast.median / slow.median == 4.0


def test_ratio_of_different_passes_is_refused():
    with pytest.raises(ValueError, match="one call of throughput"):
        ratio(Speed((1.0,)), Speed((1.0, 2.0)))


def test_real_time():
    runs = {"fast": lambda: time.sleep(0.002), "slow": lambda: time.sleep(0.008)}
    speeds = throughput(runs, 4, repeats=7, seconds=0.02)
    assert 100 < speeds["slow"].median <= 4 / 0.008
    assert 1.5 < ratio(speeds["fast"], speeds["slow"]).median < 8
    assert speeds["fast"].low <= speeds["fast"].median <= speeds["fast"].high


@pytest.mark.parametrize(
    "settings", [{"repeats": 0}, {"seconds": 0.0}, {"images": 0}], ids=lambda it: next(iter(it))
)
def test_impossible_settings_are_refused(settings: dict):
    images = settings.pop("images", 1)
    with pytest.raises(ValueError, match=r"expected .* received"):
        throughput({"a": lambda: None}, images, **settings)


def test_bytes_of_a_file_and_of_a_folder(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"12345")
    (tmp_path / "model" / "graph.xml").write_bytes(b"123")
    assert file_bytes(tmp_path / "model" / "weights.bin") == 5
    assert file_bytes(tmp_path / "model") == 8
    with pytest.raises(UnknownNameError, match=r"model\.onnx"):
        file_bytes(tmp_path / "model.onnx")
