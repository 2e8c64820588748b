"""Small changes of a program, each of which some test should notice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
#: Statements that only say something to people.
_UNHEARD = ("log", "logger", "warnings")


@dataclass(frozen=True)
class Change:
    """Bytes ``start`` to before ``stop`` of a file become ``after``."""

    path: Path
    line: int
    start: int
    stop: int
    before: str
    after: str

    def apply(self, source: bytes) -> bytes:
        """Return the changed file."""
        return source[: self.start] + self.after.encode() + source[self.stop :]

    def __str__(self) -> str:
        """Return file, line and what becomes of what."""
        return f"{self.path}:{self.line}: {' '.join(self.before.split())} → {self.after}"


def of(path: Path, source: bytes) -> list[Change]:
    """Return every change of a file, in its order."""
    text = source.decode()
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line.encode()) + 1)

    def change(node: ast.expr | ast.stmt, after: str) -> Change:
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        return Change(path, node.lineno, start, stop, source[start:stop].decode(), after)

    tree = ast.parse(text)
    return [change(node, after) for node, after in _changed(tree)]


def _changed(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield nodes with the source that replaces them."""
    for node in _walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            other = _COMPARISONS.get(type(node.ops[0]))
            if other is not None:
                changed = ast.Compare(node.left, [other()], node.comparators)
                yield node, f"({ast.unparse(changed)})"
        elif isinstance(node, ast.BoolOp):
            flipped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield node, f"({ast.unparse(ast.BoolOp(flipped, node.values))})"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, f"({ast.unparse(node.operand)})"
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            swapped = ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
            yield node, f"({ast.unparse(swapped)})"
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, str(not node.value)
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            yield node, str(node.value + 1)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, "pass"
        elif isinstance(node, ast.If):
            yield node.test, f"(not ({ast.unparse(node.test)}))"


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run, outermost first: no annotation, decorator, pattern, import."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "pattern"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Import | ast.ImportFrom):
                continue
            if _is_for_types(child) or _is_for_people(child):
                continue
            yield child
            yield from _walk(child)


def _is_for_people(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func).split(".")[0] in _UNHEARD
    return isinstance(node, ast.JoinedStr)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
