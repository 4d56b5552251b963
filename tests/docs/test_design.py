"""The folders, files and five terms that docs/design.md and CONTRIBUTING name exist."""

import re
from pathlib import Path

import pytest

import secateurs

HOUSE = Path(secateurs.__file__).parent
ROOT = Path(__file__).parents[2]
DESIGN = (ROOT / "docs/design.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def section(title):
    """The text between a heading and the next one."""
    return DESIGN.partition(f"## {title}")[2].partition("\n## ")[0]


def paths_in(text):
    """What is called like a file or a folder, in backticks."""
    names = re.findall(r"`([\w/.{},]+?)`", text)
    return sorted({name for name in names if name.endswith((".py", "/"))})


def is_there(name):
    """Whether the end of some path in the package, or one from the repository, is called so."""
    if (ROOT / name).exists():
        return True
    parts = Path(name).parts
    return any(path.parts[-len(parts) :] == parts for path in HOUSE.rglob("*"))


@pytest.mark.parametrize("name", paths_in(section("I want to change ...") + CONTRIBUTING))
def test_what_is_to_be_opened_is_there(name):
    assert is_there(name)


def test_the_tree_names_every_folder_and_no_other():
    tree = section("The tree").partition("    src/secateurs/\n")[2].partition("\n\n")[0]
    core, _, framework = tree.partition("pytorch/  and  keras/")
    folders = {path.parent.relative_to(HOUSE).as_posix() for path in HOUSE.rglob("__init__.py")}
    ours = {name for name in folders if "/" not in name} - {".", "pytorch", "keras"}
    assert set(re.findall(r"(\w+)/", core)) == ours
    inside = {name.split("/")[1] for name in folders if re.match(r"(pytorch|keras)/", name)}
    lines = [line.strip() for line in framework.splitlines()]
    named = {word for line in lines for word in re.findall(r"^(\w+)/", line)}
    assert named == inside
    root = {path.stem for path in HOUSE.glob("*.py")} - {"__main__"}
    assert set(core.splitlines()[0].split()) >= root


def test_five_terms_are_our_own():
    rows = re.findall(r"^\| (\w[\w ]*) \|", section("Glossary"), re.M)
    assert rows == ["term", "unit", "atom", "group", "frozen", "masked twin"]
