"""Who may import whom, as docs/architecture.md says; and no cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "backdrop_client": ROOT / "client",
    "backdrop_export": ROOT / "export",
    "backdrop_server": ROOT / "server_ext",
}
# A part of the code, and what of our own code it may import besides itself.
ALLOWED = {
    "backdrop_client": set[str](),
    "backdrop_export": {
        "backdrop_server.contract",
        "backdrop_server.costs",
        "backdrop_server.engines",  # an engine is compared as it will be run
        "backdrop_server.errors",
        "backdrop_server.plan",
        "backdrop_server.stages",
        "backdrop_server.working_sizes",  # that an engine must take
    },
    "backdrop_server.contract": {"backdrop_server.errors"},
    "backdrop_server.costs": {"backdrop_server.contract"},
    "backdrop_server.errors": set[str](),
    "backdrop_server.plan": set[str](),
    "backdrop_server.picture_files": set[str](),
    "backdrop_server.settings": {"backdrop_server.errors"},
    "backdrop_server.working_sizes": set[str](),
    "backdrop_server.gateway": {
        "backdrop_client",  # the gateway is a client of Triton like any other
        "backdrop_server.contract",
        "backdrop_server.costs",
        "backdrop_server.errors",
        "backdrop_server.picture_files",
        "backdrop_server.settings",
        "backdrop_server.working_sizes",
    },
    "backdrop_server.child_processes": set[str](),
    "backdrop_server.serving": {
        "backdrop_server.child_processes",
        "backdrop_server.errors",
        "backdrop_server.gateway",
        "backdrop_server.settings",
        "backdrop_server.triton",
    },
    "backdrop_server.stages": {
        "backdrop_server.picture_files",
        "backdrop_server.working_sizes",
        "backdrop_server.contract",
        "backdrop_server.costs",
        "backdrop_server.errors",
        "backdrop_server.plan",
    },
    "backdrop_server.engines": {
        "backdrop_server.contract",
        "backdrop_server.errors",
        "backdrop_server.plan",
    },
    "backdrop_server.triton": {
        "backdrop_server.child_processes",
        "backdrop_client",  # the demo sends its requests as a customer would
        "backdrop_server.contract",
        "backdrop_server.costs",
        "backdrop_server.errors",
        "backdrop_server.plan",
        "backdrop_server.stages",
        "backdrop_server.engines",
        "backdrop_server.working_sizes",
    },
}
# Third-party packages that a part must not need.
FORBIDDEN = {
    "backdrop_client": {"torch", "diffusers", "transformers", "cv2", "onnxruntime", "openvino"},
    "backdrop_server.contract": {"torch", "numpy", "diffusers"},
    "backdrop_server.costs": {"torch", "numpy", "diffusers"},
    "backdrop_server.gateway": {"torch", "diffusers", "transformers", "cv2"},
    "backdrop_server.stages": {"triton_python_backend_utils", "tritonclient", "onnxruntime"},
    "backdrop_server.engines": {"triton_python_backend_utils", "tritonclient", "diffusers"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package, root in SOURCES.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


MODULES = modules()


def imports(name: str, path: Path) -> Iterator[str]:
    """Absolute names that a module imports, anywhere in its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} uses a relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def part_of(module: str) -> str | None:
    """The longest entry of ALLOWED that the module lies in."""
    parts = [part for part in ALLOWED if module == part or module.startswith(part + ".")]
    return max(parts, key=len, default=None)


@pytest.mark.parametrize("name", MODULES)
def test_imports_stay_inside_the_rules(name: str) -> None:
    part = part_of(name)
    if part is None:
        assert not list(imports(name, MODULES[name])), f"{name} belongs to no part in ALLOWED"
        return
    for imported in imports(name, MODULES[name]):
        package = imported.partition(".")[0]
        assert package not in FORBIDDEN.get(part, set()), f"{name} must not need {package}"
        if package in SOURCES:
            target = part_of(imported)
            assert target == part or target in ALLOWED[part], f"{name} imports {imported}"


def test_no_cycles() -> None:
    graph = {n: {i for i in imports(n, p) if i in MODULES} for n, p in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_model_entries_are_thin() -> None:
    entries = sorted((ROOT / "model_repository").glob("*/1/model.py"))
    assert len(entries) == 5
    for entry in entries:
        imported = set(imports(entry.parts[-3], entry))
        assert imported == {f"backdrop_server.triton.{entry.parts[-3]}"}
