"""Wrong calls of the command line: one line, exit status 2, nothing written."""

import json
import os
from pathlib import Path

import pytest

from secateurs.cli import ExitCode, main

RUN = ("run", "--model", "vanilla_cnn", "--data", "digits", "--limit", "20", "--quiet")
PRUNE = ("prune", "vanilla_cnn", "--input", "1x1x8x8", "--output", "small.safetensors")
COMPARE = ("compare", "--model", "vanilla_cnn", "--data", "digits", "--limit", "20", "--quiet")
VALUES = {
    "--train-batches": ("-1", "x", "1.5", "", "nan"),
    "--batch-size": ("0", "-5", "1e3"),
    "--learning-rate": ("0", "-1", "nan", "inf", "1e400", ""),
    "--momentum": ("1", "nan"),
    "--weight-decay": ("-1", "inf"),
    "--schedule": ("nope", ""),
    "--shift": ("-1", "8", "9" * 20),
    "--evaluate-every": ("9" * 5000,),
    "--optimizer": ("nope", "compiled"),
    "--precision": ("fp64",),
    "--seed": ("-1", "9" * 23),
    "--step": ("0", "1", "nan"),
    "--criterion": ("nope", "", "a:b"),
    "--scope": ("nope",),
    "--floor": ("0", "-1", "nan", "inf"),
    "--skip": ("nope", "["),
    "--rounds": ("-1", "1.5"),
    "--tolerance": ("-1", "1", "nan"),
    "--budget": ("", "params", "params=", "params=nan", "macs=inf", "params=.5,params=.6", "mac=1"),
    "--limit": ("0", "-1", "x"),
    "--size": ("0", "100000"),
    "--validation": ("0", "1", "nan"),
    "--width": ("0", "-1", "x"),
    "--option": ("width", "=", "width=x", "width=" + "[" * 1000, "width=null", "a=1"),
    "--weights": ("missing", "file", "two.pt", "folder", ""),
    "--directory": ("file", "file/below", "/proc/x", "a\0b", "folder", "x" * 300),
    "--data": ("nope", "folder:nope", "folder:folder", "nope:f", "json:loads", ""),
    "--model": ("nope", "torchvision:nope", "timm:nope", "json:loads", "no.keras", ""),
    "--preset": ("nope", ""),
}
CALLS = [
    *([*RUN, option, value] for option, values in VALUES.items() for value in values),
    *([*PRUNE, "--to", budget] for budget in ("", "x", "params=0", "params=½", "macs=inf")),
    *(
        [*PRUNE, "--to", "params=.5", "--input", shape]
        for shape in (
            "",
            "3",
            "0x3x8x8",
            "²x3x8x8",
            "٣x3x8x8",
            "1.5x3x8x8",
            "1x3x99999999x99999999",
        )
    ),
    *(
        [*PRUNE, "--to", "params=.5", "--sensitivity", name]
        for name in ("missing", "file", "deep.json", "bytes.json", "folder")
    ),
    [*PRUNE, "--to", "params=.5", "--output", "file"],
    [*PRUNE, "--to", "params=.5", "--output", "file/below"],
    [*PRUNE, "--to", "params=.5", "--classes", "99999999999"],
    *([*COMPARE, "--strategies", one] for one in ("nope", "", ",", "l1@nope")),
    *([*COMPARE, "--amounts", one] for one in ("0", "1", "nan", "x", "")),
    *([*COMPARE, "--jobs", one] for one in ("0", "-1", "x")),
    [*COMPARE, "--seeds", "0"],
    [*COMPARE, "--ray", "localhost:1"],
    *(["run", "--resume", name] for name in ("missing", "file", "folder", "deep", "")),
    *(["report", name] for name in ("missing", "file", "folder", "")),
    *([name, "--nope"] for name in ("run", "prune", "inspect", "compare", "report", "doctor")),
    ["nope"],
    ["--nope"],
    ["criteria", "nope"],
]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A directory with files that are something else."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("two.pt").write_bytes(b"PK")
    Path("deep.json").write_text("[" * 100_000)
    Path("bytes.json").write_bytes(bytes(range(256)))
    Path("folder").mkdir()
    Path("folder/mine.txt").write_text("mine")
    Path("deep").mkdir()
    Path("deep/config.json").write_text('{"a":' * 100_000)


def here():
    return {str(path): path.stat().st_mtime_ns for path in Path().rglob("*")}


def format_call(call):
    words = [word for word in call if word not in RUN[1:]]
    return json.dumps(" ".join(words)[:60]).replace(os.sep, "|")


@pytest.mark.parametrize("call", CALLS, ids=format_call)
def test_a_wrong_call_is_one_line_and_writes_nothing(call, capsys):
    before = here()
    assert main(call) == ExitCode.BAD_INPUT
    out, error = capsys.readouterr()
    assert error.startswith("secateurs: error: ")
    assert error.count("\n") == 1
    assert len(error) < 2000
    assert out == ""
    assert here() == before
