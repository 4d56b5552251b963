import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from secateurs.errors import StudyError
from secateurs.study.history import History


def small() -> History:
    history = History()
    history.append("dense", round=0, batch=0, params=100, macs=1000)
    history.append("train", round=0, batch=10, accuracy=0.9)
    history.append("prune", round=1, batch=10, params=60, macs=500, accuracy=0.7)
    history.append("train", round=1, batch=20, accuracy=0.91)
    return history


def records(history: History) -> list[dict]:
    return list(history)


def test_record_value_and_shorter_history_by_position():
    history = small()
    assert history[-1] == {"kind": "train", "round": 1, "batch": 20, "accuracy": 0.91}
    assert history[0, "params"] == 100
    assert history[-1, ("batch", "accuracy")] == (20, 0.91)
    assert isinstance(history[1:3], History)
    assert history[1:3][:, "kind"] == ["train", "prune"]


def test_column_passes_over_records_without_the_field():
    assert small()[:, "macs"] == [1000, 500]
    assert small()[:, ("batch", "accuracy")] == [(10, 0.9), (10, 0.7), (20, 0.91)]
    assert small()[:, ("params", "accuracy")] == [(60, 0.7)]


def test_column_nobody_holds_is_an_error_that_names_the_nearest_field():
    with pytest.raises(KeyError, match="did you mean 'accuracy'"):
        small()[:, "acuracy"]
    with pytest.raises(KeyError, match="no record holds macs"):
        small()[-1, "macs"]


def test_column_of_nothing_is_empty():
    assert History()[:, "macs"] == []
    assert small().of("speed")[:, ("round", "ratio")] == []


def test_kinds():
    history = small()
    assert history.of("train")[:, "round"] == [0, 1]
    assert history.of("prune", "dense")[:, "kind"] == ["dense", "prune"]
    assert history.last("train") == history[-1]
    assert history.last("stop") is None
    assert repr(history) == "History(1 dense, 2 train, 1 prune)"
    assert repr(History()) == "History(empty)"


def test_appended_record_is_on_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "run" / "history.jsonl"
    history = History.create(path)
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for number in range(3):
        history.append("train", batch=number)
        written = json.loads(path.read_text().splitlines()[-1])
        body = json.dumps({"kind": "train", "batch": number})
        assert written == json.loads(body) | {"crc32": f"{zlib.crc32(body.encode()):08x}"}
    assert len(synced) == 3
    assert records(History.load(path)) == records(history)


def test_loaded_history_goes_on_in_its_file(tmp_path: Path):
    path = small().save(tmp_path / "history.jsonl")
    history = History.load(path)
    assert records(history) == records(small())
    history.append("stop", reason="tür ✂ \n done")
    assert History.load(path)[-1, "reason"] == "tür ✂ \n done"
    assert len(path.read_text().splitlines()) == 5


def test_what_is_in_memory_is_what_the_file_says(tmp_path: Path):
    history = History.create(tmp_path / "history.jsonl")
    widths = {"conv": np.int64(3)}
    record = history.append(
        "prune",
        widths=widths,
        accuracy=np.float32(0.5),
        removed=np.array([1, 2]),
        path=tmp_path,
        pair=(1, 2),
    )
    widths["conv"] = 4
    assert record == history[-1] == History.load(tmp_path / "history.jsonl")[-1]
    assert record["widths"] == {"conv": 3}
    assert record["removed"] == record["pair"] == [1, 2]
    assert type(record["accuracy"]) is float


def test_any_flipped_bit_of_a_line_is_noticed(tmp_path: Path):
    path = small().save(tmp_path / "history.jsonl")
    whole = path.read_bytes()
    for place in range(whole.index(b"\n")):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(StudyError):
                History.load(path)


def test_value_that_json_cannot_hold_is_refused_and_changes_nothing(tmp_path: Path):
    history = History.create(tmp_path / "history.jsonl")
    with pytest.raises(TypeError, match="of type object"):
        history.append("train", model=object())
    assert len(history) == 0
    assert (tmp_path / "history.jsonl").read_bytes() == b""


def test_line_cut_short_anywhere_is_dropped_and_overwritten(tmp_path: Path):
    path = small().save(tmp_path / "history.jsonl")
    whole = path.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(start + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        history = History.load(path)
        assert records(history) == records(small()[:3])
        assert path.read_bytes() == whole[:end], "reading must not write"
        history.append("stop", batch=end)
        assert path.read_bytes().endswith(b"}\n"), "nothing is left of the line cut short"
        assert History.load(path)[:, "kind"] == ["dense", "train", "prune", "stop"]


def test_last_line_without_its_end_is_kept_when_it_is_whole(tmp_path: Path):
    path = small().save(tmp_path / "history.jsonl")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    history = History.load(path)
    assert len(history) == 4
    history.append("stop", batch=1)
    assert len(History.load(path)) == 5


@pytest.mark.parametrize(
    "damage", [b'{"kind": "tr\n', b"[1]\n", b'{"batch": 3}\n', b"\xff\n", b"\n"]
)
@pytest.mark.parametrize("line", [0, 2, 4])
def test_damaged_line_is_an_error_naming_file_and_line(tmp_path: Path, line: int, damage: bytes):
    path = small().save(tmp_path / "history.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(line, damage)
    path.write_bytes(b"".join(lines))
    with pytest.raises(StudyError, match=rf"history\.jsonl, line {line + 1}:"):
        History.load(path)


def test_missing_file(tmp_path: Path):
    with pytest.raises(StudyError, match="cannot be read: No such file"):
        History.load(tmp_path / "history.jsonl")


def test_create_does_not_overwrite(tmp_path: Path):
    path = small().save(tmp_path / "history.jsonl")
    with pytest.raises(StudyError, match=r"History\.load"):
        History.create(path)
    assert len(History.load(path)) == 4


def test_records_of_another_process_are_not_lost(tmp_path: Path):
    path = small().save(tmp_path / "history.jsonl")
    mine, theirs = History.load(path), History.load(path)
    theirs.append("speed", ratio=2)
    with pytest.raises(StudyError, match="another process"):
        mine.append("speed", ratio=3)
    assert History.load(path).of("speed")[:, "ratio"] == [2]


def test_failed_write_changes_neither_history_nor_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = small().save(tmp_path / "history.jsonl")
    history = History.load(path)

    def full(_: int) -> None:
        path.write_bytes(path.read_bytes()[:-5])  # the disk took only part of the line
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StudyError, match="No space left on device"):
            history.append("stop", batch=1)
    assert records(history) == records(History.load(path)) == records(small())
    history.append("stop", batch=2)
    assert History.load(path)[-1] == {"kind": "stop", "batch": 2}


def test_file_that_went_away_is_not_made_anew_without_its_records(tmp_path: Path):
    path = small().save(tmp_path / "history.jsonl")
    history = History.load(path)
    path.unlink()
    with pytest.raises(StudyError, match="cannot be written"):
        history.append("stop", batch=1)
    assert not path.exists()
