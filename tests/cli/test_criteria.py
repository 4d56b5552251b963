from secateurs.cli import main
from secateurs.criteria import CRITERIA


def read_output(capsys):
    out, error = capsys.readouterr()
    return out, error


def test_criteria_are_listed_and_explained(capsys):
    assert main(["criteria"]) == 0
    out, _ = read_output(capsys)
    for criterion in CRITERIA.values():
        assert f"{criterion.name} " in out
        assert criterion.summary in out
    assert main(["criteria", "l1"]) == 0
    assert CRITERIA["l1"].card in read_output(capsys)[0]
