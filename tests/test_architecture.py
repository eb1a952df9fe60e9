"""The house's own rules, read from the source: who may import whom, who knows ASGI, what is public and documented."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

import smartrouter_asgi

PACKAGE = "smartrouter_asgi"
ROOT = Path(smartrouter_asgi.__file__).parent

RANKS = (
    {"types", "exceptions"},
    {"deployment", "events", "_request_id", "_scopes"},
    {"transport"},
    {"wire"},
    {"routing", "resilience", "vram", "backends"},
    {"state", "_asgi", "_sending", "_watch"},
    {
        "assembly",
        "policies",
        "sizing",
        "loading",
        "memory",
        "gating",
        "settling",
        "observers",
        "drain",
        "endpoints",
        "middleware",
        "dispatch",
        "config",
    },
    {"app"},
    {"bench", "cli"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
APART = {"routing", "resilience", "vram", "backends"}
"""These never import each other."""

KNOW_ASGI = {
    "app",
    "dispatch",
    "endpoints",
    "middleware",
    "_asgi",
    "_sending",
    "_watch",
    "types",
    "state",
    "cli",
    "testing",
}
"""`types` names the aliases, `state` is what lies in a scope."""

IMPORT_BOUND_S = 1.5  # the aim is 0.3 s
NOT_AT_IMPORT = ("openai", "httpx", "httpx2", "pydantic", "pynvml", "starlette", "uvicorn", "prometheus_client", "yaml")


@dataclass(frozen=True)
class Module:
    """One source file."""

    path: Path

    @cached_property
    def parts(self) -> tuple[str, ...]:
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return parts[:-1] if parts[-1] == "__init__" else parts

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())

    @property
    def name(self) -> str:
        return ".".join(self.parts) or "__init__"

    @property
    def top(self) -> str:
        return self.parts[0] if self.parts else "__init__"

    def imports(self) -> Iterator[tuple[ast.stmt, str]]:
        """Yield each import with the full name of what it imports, wherever it stands."""
        package = self.parts if self.path.name == "__init__.py" else self.parts[:-1]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node, alias.name
            elif isinstance(node, ast.ImportFrom):
                base = [*node.module.split(".")] if node.module else []
                if node.level:
                    base = [PACKAGE, *package[: len(package) - node.level + 1], *base]
                for alias in node.names:
                    yield node, ".".join([*base, alias.name])

    def own_imports(self) -> Iterator[tuple[str, ...]]:
        """Yield what is imported of the package, below its name."""
        for _, name in self.imports():
            first, *rest = name.split(".")
            if first == PACKAGE:
                yield tuple(rest)

    def typing_only(self) -> set[ast.stmt]:
        """Return the statements under `if TYPE_CHECKING:`."""
        return {
            inner
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            for statement in node.body
            for inner in ast.walk(statement)
            if isinstance(inner, ast.stmt)
        }


MODULES = [Module(path) for path in sorted(ROOT.rglob("*.py"))]
HOUSE = [module for module in MODULES if module.top not in ("testing", "__init__")]

each_module = pytest.mark.parametrize("module", HOUSE, ids=lambda module: module.name)


def test_every_part_has_its_place():
    """A new top-level module or package has to be put into the order."""
    assert {module.top for module in HOUSE} <= set(RANK)


@each_module
def test_imports_go_one_way(module):
    """Down the ranks and never back; the parts of one rank may know each other, unless they stand apart."""
    for target in module.own_imports():
        top = target[0]
        if top in (module.top, "__version__"):
            continue
        if top == "testing":
            assert module.top == "cli", f"{module.name} imports testing"
            continue
        assert not {module.top, top} <= APART, f"{module.name} imports {'.'.join(target)}: these stand apart"
        assert RANK[top] <= RANK[module.top], f"{module.name} imports {'.'.join(target)}: that is back up"


def test_no_two_parts_import_each_other():
    """Within one rank too."""
    edges = {(m.top, target[0]) for m in HOUSE for target in m.own_imports() if target[0] != m.top}
    assert not [pair for pair in edges if pair[::-1] in edges]


@each_module
def test_few_know_asgi(module):
    """`scope, receive, send` are the business of the layers and the endpoints alone."""
    if module.top in KNOW_ASGI:
        return
    assert not [t for t in module.own_imports() if t[0] == "types" and t[-1] in ("Scope", "Receive", "Send", "ASGIApp")]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
            assert not {"receive", "send"} <= arguments, f"{module.name}.{node.name}"
        if isinstance(node, ast.Constant):
            assert not str(node.value).startswith(("http.request", "http.response", "http.disconnect")), module.name


@pytest.mark.parametrize("library", ["httpx", "httpx2", "httpcore"])
def test_one_module_knows_the_http_client(library):
    """All else may name it for the type checker only; what makes a transport of httpx is its own way out."""
    for module in HOUSE:
        if module.name in ("transport.httpx_transport", "transport.direct.for_httpx"):
            continue
        typing_only = module.typing_only()
        for node, name in module.imports():
            assert name.split(".")[0] != library or node in typing_only, f"{module.name} imports {name}"


@each_module
def test_what_is_public_has_a_docstring(module):
    """Modules, classes, functions and methods; what starts with an underscore may go without."""
    missing = []

    def visit(node: ast.AST, name: str) -> None:
        if not ast.get_docstring(node):
            missing.append(name)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        for child in node.body:
            if (
                isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and not child.name.startswith("_")
                and not any(isinstance(d, ast.Attribute) and d.attr == "setter" for d in child.decorator_list)
                and not any(isinstance(d, ast.Name) and d.id in ("overload", "override") for d in child.decorator_list)
            ):
                visit(child, f"{name}.{child.name}")

    visit(module.tree, module.name)
    assert not missing


@pytest.mark.parametrize("name", smartrouter_asgi.__all__)
def test_public_names_resolve_and_are_documented(name):
    """Each is where it is said to be, with a docstring of its own."""
    value = getattr(smartrouter_asgi, name)
    if name != "__version__":
        assert value.__doc__
        assert not value.__doc__.startswith(f"{value.__name__}(")  # what a dataclass writes for itself
        assert value.__module__.startswith(PACKAGE)


def test_public_names_are_sorted():
    """And each is named once, for the type checker too."""
    names = [name for name in smartrouter_asgi.__all__ if not name.startswith("_")]
    assert names == sorted(set(names))
    init = next(module for module in MODULES if module.name == "__init__")
    typed = {name.rsplit(".", 1)[1] for node, name in init.imports() if node in init.typing_only()}
    assert typed == set(names)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        importlib.import_module(PACKAGE).nothing_like_it  # noqa: B018


def test_the_import_is_light():
    """`import smartrouter_asgi` costs next to nothing; what is heavy comes with its first use."""
    script = (
        "import sys, time; began = time.perf_counter(); import smartrouter_asgi; took = time.perf_counter() - began; "
        f"print(took, *[name for name in {NOT_AT_IMPORT!r} if name in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert [run[1:] for run in runs] == [[], [], []]
    assert min(float(run[0]) for run in runs) < IMPORT_BOUND_S


def test_the_router_comes_without_what_is_optional():
    """Making one imports no SDK, no server and nothing of the tests."""
    script = (
        "import sys; from smartrouter_asgi import Settings, SmartRouter; SmartRouter(Settings()); "
        "print(*[m for m in ('openai', 'uvicorn', 'fastapi', 'smartrouter_asgi.testing') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
