"""What is on disk is what was written, or an error is raised."""

import json
import shutil

import pytest

import secateurs as sec
from secateurs.study.directory import Study
from secateurs.study.disk_store import read_position
from study.test_directory import files_of, small, write_study

pytestmark = pytest.mark.usefixtures("without_drawing")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study") / "study")


@pytest.mark.parametrize("where", [0.02, 0.3, 0.5, 0.7, 0.98])
@pytest.mark.parametrize(
    "name", ["checkpoint.safetensors", "best.safetensors", "history.jsonl", "config.json"]
)
def test_a_flipped_bit_is_noticed(study, tmp_path, name, where):
    place = shutil.copytree(study, tmp_path / "study")
    content = bytearray((place / name).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little") if name.endswith("safetensors") else 0
    content[start + int(where * (len(content) - start))] ^= 1
    (place / name).write_bytes(content)
    before = files_of(place)
    with pytest.raises(sec.SecateursError) as error:
        small(place)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert files_of(place) == before


def test_a_record_that_was_changed_by_hand_is_taken_without_its_checksum(study, tmp_path):
    place = shutil.copytree(study, tmp_path / "study")
    lines = (place / "history.jsonl").read_text().splitlines()
    record = json.loads(lines[1])
    record["accuracy"] = 1.0
    for changed, fine in ((record, False), ({k: record[k] for k in record if k != "crc32"}, True)):
        (place / "history.jsonl").write_text("\n".join([lines[0], json.dumps(changed)]) + "\n")
        if fine:
            assert Study.open(place).history[1, "accuracy"] == 1.0
        else:
            with pytest.raises(sec.StudyError, match=r"line 2: .*remove its"):
                _ = Study.open(place).history


def test_how_far_a_study_is_kept(study, tmp_path):
    position = read_position(study)
    assert (position.stage, position.round, position.batch) == (
        "ended",
        1,
        4,
    )  # repair recovered the round
    assert read_position(tmp_path) is None
    (tmp_path / "checkpoint.safetensors").write_bytes(b"PK")
    assert read_position(tmp_path) is None
