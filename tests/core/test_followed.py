"""The tables of what is followed: every row says what happens, and names tests that show it."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "followed.md"
COLUMNS = ["setting", "with probes", "predictions only", "shown by"]
VERDICT = re.compile(r"exactly\b|approximately: |refused: |the same$|—$")


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows():
    """The rows of every table with these columns."""
    found, is_ours = [], False
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            is_ours = False
        elif cells(line) == COLUMNS:
            is_ours = True
        elif is_ours and not set(line) <= set("|- "):
            found.append(cells(line))
    return found


def known_tests():
    """The source of every test, by the name that the tables use."""
    known = {}
    for path in TESTS.rglob("test_*.py"):
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                name = f"{path.stem.removeprefix('test_')}.{node.name.removeprefix('test_')}"
                known.setdefault(name, []).append(ast.unparse(node))
    return known


KNOWN = known_tests()


def names(row):
    return re.findall(r"`([^`]+)`", row[-1])


def test_there_are_such_tables():
    assert len(rows()) > 60
    settings = [row[0] for row in rows()]
    assert len(set(settings)) == len(settings)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_a_row_says_what_happens_and_names_tests_that_exist(row):
    assert len(row) == len(COLUMNS)
    assert names(row), f"no test shows: {row[0]}"
    for name in names(row):
        assert len(KNOWN.get(name, [])) == 1, f"{name} names {len(KNOWN.get(name, []))} tests"
    for verdict in row[1:3]:
        assert VERDICT.match(verdict), (
            f"{verdict!r} says neither exactly, approximately nor refused"
        )
    assert VERDICT.match(row[1])[0] != "the same"


REFUSED = [row for row in rows() if any("refused" in verdict for verdict in row[1:3])]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0][:40])
def test_of_what_is_refused_a_test_sees_the_error(row):
    sources = "".join(source for name in names(row) for source in KNOWN[name])
    assert re.search(r"raises|refusal|texts\[", sources), row[0]
