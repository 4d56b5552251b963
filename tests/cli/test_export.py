from secateurs.cli import ExitCode, main
from support.shell import CNN, read_output


def test_export_writes_what_it_says(place, capsys):
    assert main(["export", *CNN, "--to", "safetensors"]) == 0
    assert "vanilla_cnn.safetensors: " in read_output(capsys)[0]
    assert main(["export", *CNN, "--to", "safetensors"]) == ExitCode.BAD_INPUT
    assert "--overwrite" in read_output(capsys)[1]
    assert main(["export", *CNN, "--to", "safetensors", "--overwrite"]) == 0
