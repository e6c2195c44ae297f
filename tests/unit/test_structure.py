"""The package's structure: one package per step of the data, imports point upward in the list only, no circles."""

from __future__ import annotations

import ast
import importlib
import re
from graphlib import CycleError, TopologicalSorter

import pytest

import servegauge
from servegauge.cli.docs import architecture
from servegauge.cli.docs.architecture import ORDER
from tests.conftest import ROOT

PACKAGE = ROOT / "workflow" / "servegauge"
# What a process on the login node waits with must not load what measures.
FORBIDDEN = {("submit", "launch"), ("launch", "submit")}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
NAMED = re.compile(r"servegauge(?:\.[a-z_0-9]+)+")


def imports(tree: ast.AST) -> set[str]:
    """Modules of this package that a module imports: anywhere in it, under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES and name != "servegauge"}


def named(tree: ast.AST) -> set[str]:
    """Modules of this package that a text in a module names, such as those that a process is started with."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {name for text in texts for name in NAMED.findall(text) if name in MODULES}


def package(module: str) -> str:
    return module.split(".")[1]


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def test_every_module_lies_in_a_package_and_every_package_says_what_it_is_for() -> None:
    beside = sorted(path.name for path in PACKAGE.iterdir() if path.suffix == ".py")
    assert beside == ["__init__.py"]
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(ORDER)
    for folder in folders:
        assert ast.get_docstring(TREES[f"servegauge.{folder}"]), folder


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name != servegauge.__name__))
def test_a_package_names_only_those_before_it(module: str) -> None:
    own = package(module)
    for other in imports(TREES[module]) | named(TREES[module]):
        if package(other) != own:
            assert ORDER.index(package(other)) < ORDER.index(own), f"{module} names {other}"
            assert (own, package(other)) not in FORBIDDEN, f"{module} names {other}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({name: imports(tree) - {name} for name, tree in TREES.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_rules_and_scripts_import_modules_that_exist() -> None:
    """Snakemake runs what stands in a rule's function only at the end of a run: too late to find a wrong name."""
    files = [*ROOT.glob("workflow/rules/*.smk"), ROOT / "Snakefile", *ROOT.glob("scripts/*.py")]
    for file in files:
        for module, names in re.findall(r"^ *from (servegauge[\w.]*) import (.+)$", file.read_text(), re.MULTILINE):
            found = vars(importlib.import_module(module))
            for name in re.findall(r"(\w+)(?: as \w+)?", names):
                assert name in found or f"{module}.{name}" in MODULES, f"{file.name}: {module} has no {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "unit").rglob("test_*.py")), ids=lambda path: path.name)
def test_unit_tests_mirror_the_packages(path) -> None:
    folder = path.relative_to(ROOT / "tests" / "unit").parts[0]
    assert folder in ORDER or path.name in ("test_structure.py", "test_suites.py"), (
        "these two look at the whole repository"
    )


def test_the_page_of_the_architecture_is_what_the_packages_say() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == architecture.filled(page), "run: python -m servegauge.cli.docs"


def test_the_page_names_places_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = re.findall(r"`((?:" + "|".join(ORDER) + r")\.[a-z_]+)`", page)
    assert len(modules) > 10
    assert [name for name in modules if f"servegauge.{name}" not in MODULES] == []
    folders = re.findall(r"`((?:" + "|".join(ORDER) + r")/[a-z_/]*/)", page)
    assert [name for name in folders if not (PACKAGE / name).is_dir()] == []
