import json
import re

from secateurs.cli import ExitCode, main

MODEL = ("--model", "vanilla_cnn", "--width", "4", "--option", "hidden=12", "--data", "digits")


SMALL = (*MODEL, "--limit", "200")


TRAINING = (
    *("--train-batches", "6", "--fine-tune-batches", "3", "--batch-size", "32"),
    *("--learning-rate", "0.02"),
)


COMPARE = (
    *("compare", *SMALL, *TRAINING, "--strategies", "l1,random", "--amounts", "0.3,0.6"),
    *("--seeds", "1"),
)


def test_compare_prints_a_table_and_writes_what_it_found(place, capsys):
    assert main([*COMPARE, "--directory", "c"]) == ExitCode.FINE
    out, _ = capsys.readouterr()
    assert "4/4  random at 60 %, seed 0: " in out
    found = json.loads((place / "c" / "results.json").read_text())
    assert found["comparison"]["command"][:2] == ["secateurs", "compare"]
    for row in found["jobs"]:
        assert re.search(
            rf"{row['strategy']} at {100 * row['amount']:g} %, seed 0: "
            rf"{100 * row['before']:.1f} % -> {100 * row['accuracy']:.1f} %",
            out,
        )
    for name in ("accuracy-removed", "accuracy-size", "norms"):
        assert (place / "c" / f"{name}.svg").stat().st_size > 1000
        assert (place / "c" / f"{name}.png").exists()
    page = (place / "c" / "compare.html").read_text()
    assert page.count("<figure") == 3
    assert "http:" not in re.sub(r"data:image[^\"]*", "", page)


def test_compare_goes_on_and_takes_more_strategies(place, capsys):
    main([*COMPARE, "--directory", "c", "--quiet"])
    before = {path.name: path.stat().st_mtime_ns for path in (place / "c" / "jobs").iterdir()}
    more = [word.replace("l1,random", "l1,random,auto") for word in COMPARE]
    assert main([*more, "--directory", "c"]) == ExitCode.FINE
    assert "4 of 6 jobs are already done" in capsys.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in (place / "c" / "jobs").iterdir()}
    assert len(after) == 6
    assert before.items() <= after.items()
    auto = json.loads((place / "c" / "jobs" / "auto-60-seed0.json").read_text())
    assert auto["criterion"] in ("l2", "whc", "fluctuation", "taylor", "fisher", "random")
    assert main(["compare", "--resume", "c"]) == ExitCode.FINE
    assert "6 of 6 jobs are already done" in capsys.readouterr().out
