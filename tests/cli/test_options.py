import secateurs as sec
from secateurs.cli import main
from secateurs.cli.options import attribute_docs, shape_from
from secateurs.settings.pruning import Pruning
from secateurs.settings.training import Training


def read_output(capsys):
    out, error = capsys.readouterr()
    return out, error


def test_every_setting_is_an_option_with_the_help_of_its_docstring(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    main(["run", "--help"])
    out, _ = read_output(capsys)
    for settings in (Training, Pruning, sec.Stop):
        documented = attribute_docs(settings)
        assert documented.keys() == settings.model_fields.keys()
        for name in settings.model_fields:
            known = {"batches": "train-batches", "precision": "train-precision"}
            dashed = known.get(name, name.replace("_", "-"))
            assert f"--{dashed} " in out or f"--no-{dashed} " in out
    assert "Share of the channels that remain" in " ".join(out.split())


def test_a_shape_may_have_white_space_of_any_kind_around_its_numbers():
    assert shape_from(" 1 x3,8\t\x1c") == (1, 3, 8)
