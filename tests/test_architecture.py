"""The rules of the architecture, checked on the imports."""

import ast
import functools
import re
from pathlib import Path

import pytest
from radon.complexity import cc_visit

import secateurs

HOUSE = Path(secateurs.__file__).parent
TESTS = Path(__file__).parent
FRAMEWORKS = {"torch", "keras", "tensorflow", "jax", "accelerate", "torchvision", "timm"}
GROUND = {
    *("__init__", "__main__", "api", "backends", "errors", "files", "formatting"),
}

# Bottom to top. What stands on a floor imports from the floors below it, and from its own.
FLOORS = [
    ["errors"],
    ["files", "formatting", "arguments", "backends"],
    ["channels", "measurement", "data", "models"],
    ["calibration"],
    ["criteria"],
    ["planning", "training"],
    ["deployment"],
    ["settings", "study", "comparison", "report", "reconstruction"],
    ["pytorch", "keras"],
    ["api"],
    ["cli", "testing"],
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def modules():
    """Dotted name -> file."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = [HOUSE.name, *path.relative_to(HOUSE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def parse(path):
    """A file's syntax tree, parsed once for all tests."""
    return ast.parse(path.read_text())


def runtime_nodes(node):
    """All nodes but those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            yield child
            yield from runtime_nodes(child)


def imports(path):
    """What a file imports, wherever it does: a module where there is one of that name."""
    for node in runtime_nodes(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module or ""


GRAPH = {name: {n for n in imports(path) if n in MODULES} for name, path in MODULES.items()}


def room(module):
    """channels, criteria, ..., or a module of the ground floor."""
    return [*module.split("."), ""][1]


def reachable(start):
    """All modules that this one imports, or one that it imports, ..."""
    seen, waiting = set(), [start]
    while waiting:
        for name in GRAPH[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def test_no_import_circles():
    circles = [name for name in GRAPH if name in reachable(name) - {name}]
    circles += [name for name in GRAPH if any(name in reachable(n) for n in GRAPH[name] - {name})]
    assert sorted(set(circles)) == []


@pytest.mark.parametrize("framework", ["pytorch", "keras"])
def test_packages_of_a_framework_are_layered(framework):
    """Rooms that import nothing of those left are taken away, floor by floor: circles stay."""
    left = {}
    for name, others in GRAPH.items():
        _, inside, inner_room, *_ = [*name.split("."), "", ""]
        if inside == framework and inner_room:
            rooms = {
                other.split(".")[2]
                for other in others
                if other.startswith(f"secateurs.{framework}.")
            }
            left.setdefault(inner_room, set()).update(rooms - {inner_room})
    while floor := {inner_room for inner_room, rooms in left.items() if not rooms & left.keys()}:
        left = {inner_room: rooms for inner_room, rooms in left.items() if inner_room not in floor}
    assert left == {}


def test_no_import_goes_up_a_layer():
    up = [
        f"{name} -> {other}"
        for name, others in GRAPH.items()
        for other in others
        if room(name)
        and room(other)
        and FLOOR_OF.get(room(name), 99) < FLOOR_OF.get(room(other), 0)
    ]
    assert up == []


def test_every_package_has_a_layer():
    assert {room(name) for name in MODULES} - {"", "__main__"} <= set(FLOOR_OF)


def test_no_other_module_is_at_the_root():
    assert {path.stem for path in HOUSE.glob("*.py")} <= GROUND


def test_nothing_is_imported_by_a_computed_string():
    """Only ``backends`` imports our own packages by name, from a table."""
    calls = [
        f"{name}:{node.lineno}"
        for name, path in MODULES.items()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
        and any(isinstance(argument, ast.JoinedStr) for argument in node.args)
        and room(name) != "models"  # whose own files are imported when first asked for
    ]
    assert calls == []


def test_no_module_is_called_as_a_function_that_it_exports():
    alike = [
        name
        for name, path in MODULES.items()
        for node in parse(path).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == path.stem
    ]
    assert alike == []


def defined_kinds(path):
    """(name, how it is defined) of classes and of aliases of types, at the top of a module."""
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = " ".join(ast.unparse(base) for base in node.bases)
            yield node.name, "Protocol" if "Protocol" in bases else str(path)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if re.fullmatch("(?:[A-Z][a-z]+)+", name):
                yield name, ast.unparse(node.value)


def places_of_kinds():
    """Name -> {how it is defined: its modules below the framework's package}."""
    found = {}
    for name, path in MODULES.items():
        _, inside, *below = [*name.split("."), ""]
        same_place = ".".join(below) if inside in ("pytorch", "keras") else name
        for kind, text in defined_kinds(path):
            found.setdefault(kind, {}).setdefault(text, set()).add(same_place)
    return found


def test_one_word_is_one_thing():
    """A class or an alias of one name stands in both frameworks at the same place, or twice alike.

    A Protocol of the core has the name of what fulfils it.
    """
    several = {
        kind: sorted(set().union(*places.values()))
        for kind, definitions in places_of_kinds().items()
        for places in [{text: at for text, at in definitions.items() if text != "Protocol"}]
        if len(places) > 1 and len(set().union(*places.values())) > 1
    }
    assert several == {}


PARTICIPLES = re.compile(
    r"_?(?:[a-z]+ed|begun|built|chosen|drawn|found|given|gone|heard|kept|known|learnt|lost"
    r"|made|met|said|seen|shown|taken|taught|told|written)(?:_(?:as|at|before|by|from|in|into|like"
    r"|on|to))?"
)
RIDDLES = {"said", "told", "what", "who", "whom", "own", "those"}
VERBS = {"_feed", "_need", "_seed", "embed", "exceed", "feed", "need", "proceed", "seed", "speed"}
PUBLIC = {"recorded", "trained", "finished"} | {
    "removed_by", "described_metric", "ranked_by", "centred",
}  # fmt: skip
"""What users' own watchers and callbacks override, and what they ask of what they are given: code
of theirs that goes by these names would no longer be called, without a word."""


def named_things(path):
    """(what it is, its name, its line) of functions and variables."""
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield "function", node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield "variable", node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield "variable", node.id, node.lineno


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
def test_names_say_what_is_done_and_what_is_held(folder):
    """Functions are verbs and nouns, not past participles; variables are no riddles."""
    riddles = [
        f"{path.name}:{line} {name}"
        for path in sorted((TESTS.parent / folder).rglob("*.py"))
        for thing, name, line in named_things(path)
        if (thing == "variable" and name in RIDDLES)
        or (thing == "function" and name not in VERBS | PUBLIC and PARTICIPLES.fullmatch(name))
    ]
    assert riddles == []


@pytest.mark.parametrize(
    "place", sorted(set(FLOOR_OF) - {"pytorch", "keras", "models", "cli", "testing"})
)
def test_the_core_knows_no_framework(place):
    for name, path in MODULES.items():
        # building.py builds the model that a task names, of either framework
        if room(name) != place or path.name == "building.py":
            continue
        found = {n.partition(".")[0] for n in imports(path)} & FRAMEWORKS
        inside = [
            n for n in imports(path) if n.startswith(("secateurs.pytorch", "secateurs.keras"))
        ]
        assert not found, path
        assert not inside, path


def test_the_two_frameworks_never_meet():
    for one, other in (("pytorch", "keras"), ("keras", "pytorch")):
        for path in (HOUSE / one).rglob("*.py"):
            assert not [n for n in imports(path) if n.startswith(f"secateurs.{other}")], path


def test_no_function_is_over_sixty_lines():
    long = [
        f"{path.name}:{node.name}"
        for path in HOUSE.rglob("*.py")
        for node in ast.walk(parse(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def test_no_function_is_of_complexity_over_fifteen():
    """By radon's count, which adds boolean operators to the branches."""
    complex_ones = [
        f"{path.name}:{block.name}"
        for path in HOUSE.rglob("*.py")
        for block in cc_visit(path.read_text())
        if not hasattr(block, "methods") and block.complexity > 15
    ]
    assert complex_ones == []


def holds_something_to_test(path):
    """Whether a module has a function or a class: Protocols and what is imported are none."""
    return any(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (
            isinstance(node, ast.ClassDef)
            and not any("Protocol" in ast.unparse(base) for base in node.bases)
        )
        for node in parse(path).body
    )


def test_tests_mirror_their_modules():
    """``src/secateurs/a/b.py`` is tested in ``tests/a/test_b.py``."""
    alone = {
        str(place)
        for path in HOUSE.rglob("*.py")
        for place in [path.relative_to(HOUSE)]
        if not path.stem.startswith("__")
        and holds_something_to_test(path)
        and not (TESTS / place.parent / f"test_{place.name}").exists()
    }
    assert sorted(alone) == []


def private_names(nodes):
    """Names with one underscore in front that are defined there: functions, classes, attributes."""
    for node in nodes:
        name = (
            node.name
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            else node.attr
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            else node.id
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            else ""
        )
        if name.startswith("_") and not name.endswith("_"):
            yield name


def list_touched_names(node):
    """Names that are imported from secateurs, read off an object, or given to ``setattr``."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("secateurs"):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
        yield node.attr
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
        named = [a.value for a in node.args if isinstance(a, ast.Constant)]
        yield from (name.rpartition(".")[2] for name in named if isinstance(name, str))


def test_tests_go_through_what_is_public():
    ours = {name for path in MODULES.values() for name in private_names(ast.walk(parse(path)))}
    touched = []
    for path in sorted(TESTS.rglob("*.py")):
        nodes = list(ast.walk(parse(path)))
        private = ours - set(private_names(nodes))  # a test's own class may have such a name too
        touched += [
            f"{path.relative_to(TESTS)}:{node.lineno} {name}"
            for node in nodes
            for name in list_touched_names(node)
            if name in private
        ]
    assert touched == []
