"""A fingerprint of the code that a study's results depend on.

It covers the study's own module and every module that this one reaches by imports within landform (and within its own
package, for a study that lives elsewhere). Comments, docstrings and layout do not count. A name imported from a package
counts as the module that defines it, so that an edit of one component touches the studies that use it, and no other.
Imports are read, not run: those inside functions count, those for type checking do not, and so does any text that names
a module (as in a table of loaders).
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import landform
from landform.lab.errors import StudyError
from landform.study import Study

OUTSIDE = ("landform.lab", "landform.cli", "landform.catalog", "landform.claims")
"""No number of a trial can depend on these: what runs, lists and judges it."""


def study_fingerprint(study: Study) -> str:
    """The fingerprint of the module that holds the study's trial.

    Raises:
        StudyError: the trial is in no file.
    """
    name = getattr(study.run_trial, "__module__", "")
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        raise StudyError(
            f"{study.slug}: the trial must be a function in a file, for its code is a part of its identity"
        )
    packages = {"landform": Path(landform.__file__).parent}
    top = name.partition(".")[0]
    above = getattr(sys.modules.get(top), "__path__", None)
    if above and top != name:
        packages.setdefault(top, Path(next(iter(above))))
    return fingerprint(name, Path(file), packages)


def fingerprint(name: str, file: Path, packages: Mapping[str, Path]) -> str:
    """The SHA-256 of module ``name``, kept in ``file``, and of all that it reaches within ``packages``.

    Arguments:
        packages: the folder of each top-level package whose modules count.
    """
    walk = _Walk(packages)
    walk.add(name, file)
    return hashlib.sha256(
        "\n".join(f"{name} {code}" for name, code in sorted(walk.reached.items())).encode()
    ).hexdigest()


class _Walk:
    """Collects in ``reached`` the code of every module that counts, by name."""

    def __init__(self, packages: Mapping[str, Path]) -> None:
        self.packages = packages
        self.reached: dict[str, str] = {}

    def find(self, name: str) -> Path | None:
        top, *rest = name.split(".")
        if top not in self.packages or any(name == o or name.startswith(f"{o}.") for o in OUTSIDE):
            return None
        path = self.packages[top].joinpath(*rest)
        candidates = (path / "__init__.py", path.with_suffix(".py"))
        return next((file for file in candidates if file.is_file()), None)

    def add(self, name: str, file: Path | None = None) -> None:
        """Count a whole module, with all that it imports."""
        file = file or self.find(name)
        if file is None or name in self.reached:
            return
        module = _read(file)
        self.reached[name] = module.code
        for source, wanted, bound in module.imports(name):
            self.follow(source, wanted, bound, module)
        for text in module.texts:
            self.add(text)

    def follow(self, source: str, wanted: str | None, bound: str, user: _Module) -> None:
        """Count what ``from source import wanted as bound`` brings in, or ``import source as bound``."""
        where, is_module = (source, True) if wanted is None else self.resolve(source, wanted)
        attributes = user.attributes_of(bound)
        if is_module and attributes and self.is_package(where):
            for attribute in attributes:
                self.add(self.resolve(where, attribute)[0])
        else:
            self.add(where)

    def resolve(self, source: str, name: str) -> tuple[str, bool]:
        """Where ``source.name`` is defined, through the names that packages pass on; and whether it is a module."""
        file = self.find(source)
        if file is None or not self.is_package(source):
            return source, False
        module = _read(file)
        if name in module.defines:
            return source, False
        for origin, wanted, bound in module.imports(source):
            if wanted == "*" and name in self.names(origin):
                return self.resolve(origin, name)
            if bound == name and (origin, wanted) != (source, name):
                return (origin, True) if wanted is None else self.resolve(origin, wanted)
        submodule = f"{source}.{name}"
        return (submodule, True) if self.find(submodule) else (source, False)

    def is_package(self, name: str) -> bool:
        file = self.find(name)
        return file is not None and file.name == "__init__.py"

    def names(self, source: str) -> set[str]:
        """What ``from source import *`` may bring in."""
        file = self.find(source)
        return set() if file is None else _read(file).defines | {bound for _, _, bound in _read(file).imports(source)}


class _Module:
    """What one file says: its code without comments and docstrings, and its imports."""

    def __init__(self, file: Path) -> None:
        tree = ast.parse(file.read_bytes(), str(file))
        self.code = hashlib.sha256(_code(tree).encode()).hexdigest()
        self.is_package = file.name == "__init__.py"
        self.defines = set(_defined(tree.body))
        nodes = list(_executed(tree))
        self._imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        constants = (node.value for node in nodes if isinstance(node, ast.Constant))
        texts = (value.partition(":")[0] for value in constants if isinstance(value, str))
        self.texts = {text for text in texts if re.fullmatch(r"\w+(\.\w+)+", text)}
        self._attributes: dict[str, set[str]] = {}
        bases = set()
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                self._attributes.setdefault(node.value.id, set()).add(node.attr)
                bases.add(node.value)
        self._bare = {node.id for node in nodes if isinstance(node, ast.Name) and node not in bases}

    def imports(self, name: str) -> Iterator[tuple[str, str | None, str]]:
        """Each import of this module, called ``name``: (source, what is wanted of it or None, the name bound)."""
        for node in self._imports:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, None, alias.asname or alias.name
                continue
            source = node.module or ""
            if node.level:
                parents = name.split(".") if self.is_package else name.split(".")[:-1]
                source = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                yield source, alias.name, alias.asname or alias.name

    def attributes_of(self, bound: str) -> set[str]:
        """The attributes by which alone a name is used here; empty if it is used otherwise, or not at all."""
        return set() if bound in self._bare else self._attributes.get(bound, set())


def _read(file: Path) -> _Module:
    status = file.stat()
    return _read_version(file, status.st_mtime_ns, status.st_size)


@cache
def _read_version(file: Path, modified: int, size: int) -> _Module:
    return _Module(file)


def _code(node: Any) -> str:
    """A tree as text, without positions, docstrings and empty fields (which differ between versions of Python)."""
    if isinstance(node, list):
        return f"[{','.join(map(_code, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            value = value[1:]
        if value is not None and value != [] and name != "kind":
            parts.append(f"{name}={_code(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, but for what is there for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for other in child.orelse:
                yield other
                yield from _executed(other)
        else:
            yield child
            yield from _executed(child)


def _defined(body: Sequence[ast.stmt]) -> Iterator[str]:
    """The names that top-level statements define, imports apart."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        else:
            nodes = ast.walk(statement)
            yield from (node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
