"""Small faults for Python source: each is found by its kind of expression, so that moved code keeps its faults."""

import ast
from collections import Counter
from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import dataclass
from itertools import islice

COMPARE = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
PAIRS = (
    ("min", "max"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("minimum", "maximum"),
    ("any", "all"),
    ("mean", "sum"),
    ("floor", "ceil"),
    ("shallow", "deep"),
    ("pooled_shallow", "pooled_deep"),
    ("local", "global_"),
    ("height", "width"),
    ("row", "column"),
    ("rows", "columns"),
    ("supply", "demand"),
    ("low", "high"),
)
OTHER = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
UNTOUCHED = (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr)
# calls without which an expression still makes sense: x.clamp_min(1) becomes x
DROPPED = {"clamp", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_", "masked_fill", "masked_fill_"} | {
    *("abs", "sqrt", "square", "float", "double", "flip", "clone", "detach", "contiguous"),
    *("mul_", "add_", "sub_", "div_", "exp", "exp_", "log", "reciprocal"),
}
UNORDERED = {"zip", "range", "min", "max", "minimum", "maximum", "update"}  # swapped arguments change nothing there
MOST = 100  # characters shown of either side of a change
# their numbers name axes; another axis is seldom a fault that anybody makes, and fails at once. Without a GPU nothing
# tells one backend from another, and nothing tells a dataclass that may be changed or the usual encoding of files
AXES = {
    "backend",
    "frozen",
    "hash",
    "maxsize",
    "dim",
    "axis",
    "device",
    "dtype",
    "strict",
    "keepdim",
    "start_dim",
    "dim1",
    "dim2",
}
BY_AXIS = {"unsqueeze", "squeeze", "transpose", "permute", "flatten", "unflatten", "sum", "mean", "amin", "amax"} | {
    *("any", "all", "cat", "stack", "expand", "gather", "scatter", "scatter_", "scatter_add_", "cumsum", "argsort"),
    *("sort", "softmax", "logsumexp", "index_select", "index_add_", "index_copy", "index_copy_", "index_fill"),
    *("index_fill_", "argmax", "argmin", "max", "min", "topk", "scatter_reduce_", "split", "take", "size", "view"),
}


@dataclass(frozen=True)
class Mutant:
    """One fault, the number-th of its file. function: qualified name inside the file, "" outside of functions. change:
    what becomes what.
    """

    path: str
    function: str
    change: str
    line: int
    number: int

    @property
    def key(self) -> str:
        """What stays when code moves: no file and no line."""
        return f"{self.function}: {self.change}"


def mutants(path: str, source: str) -> list[Mutant]:
    """All faults of a file, in its order."""
    seen: Counter = Counter()
    found = []
    for number, (function, line, before, after) in enumerate(_faults(ast.parse(source))):
        if before == after:
            continue
        change = _difference(before, after)
        seen[function, change] += 1
        again = f"  (no. {seen[function, change]})" if seen[function, change] > 1 else ""
        found.append(Mutant(path, function, change + again, line, number))
    return found


def mutated(source: str, number: int) -> str:
    """The file with one of its faults."""
    tree = ast.parse(source)
    next(islice(_faults(tree), number, None))
    return ast.unparse(tree)


def _faults(tree: ast.Module) -> Iterator[tuple[str, int, str, str]]:
    """(function, line, before, after) of each fault; until the next is asked for, the tree has it."""
    for function, anchor, owner, field, place, replacement in _sites(tree, "", None):
        original = getattr(owner, field) if place is None else getattr(owner, field)[place]
        before = ast.unparse(anchor)
        _put(owner, field, place, replacement)
        yield function, original.lineno, before, ast.unparse(replacement if anchor is original else anchor)
        _put(owner, field, place, original)


def _put(owner: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(owner, field, node)
    else:
        getattr(owner, field)[place] = node


def _difference(before: str, after: str, around: int = 24) -> str:
    """The places where two texts differ, with a little of what stands around them."""
    start = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    most = min(len(before), len(after)) - start
    end = next((i for i in range(most) if before[-1 - i] != after[-1 - i]), most)
    low = max(0, start - around)
    cut = [" ".join(text[low : len(text) - max(0, end - around)].split()) for text in (before, after)]
    return " → ".join(text if len(text) <= MOST else text[:MOST] + "…" for text in cut)


def _sites(node: ast.AST, function: str, anchor: ast.AST | None) -> Iterator[tuple]:
    """(function, anchor, owner, field, place, replacement) of each fault below a node. anchor: what is shown of it."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_params") or _is_text(node, field):
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(
                child, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr
            ):
                continue
            inside, shown = function, anchor
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inside = f"{function}.{child.name}".lstrip(".")
            if isinstance(child, ast.stmt):
                shown = None if hasattr(child, "body") else child
            elif anchor is None:
                shown = child
            for replacement in _replacements(child, node, field):
                yield function, shown or child, node, field, place, replacement
            yield from _sites(child, inside, shown)


def _is_text(node: ast.AST, field: str) -> bool:
    """Docstrings, __all__, isinstance: nothing to change there."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign):
        return getattr(node.targets[0], "id", "") == "__all__" or field == "targets"
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "hasattr", "getattr")


def _replacements(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    if isinstance(node, ast.stmt):
        yield from _statements(node)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for kind in COMPARE[type(node.ops[0])]:
            yield ast.Compare(node.left, [kind()], node.comparators)
    elif isinstance(node, ast.BinOp):
        if type(node.op) in BINARY:
            yield ast.BinOp(node.left, BINARY[type(node.op)](), node.right)
            yield node.left
            if not isinstance(node.op, ast.FloorDiv | ast.Mod | ast.Pow):
                yield node.right
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for place in range(len(node.values)):
            rest = node.values[:place] + node.values[place + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and not _names_an_axis(node, parent, field):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.Constant) and not _names_an_axis(node, parent, field):
        yield from (ast.Constant(value) for value in _numbers(node.value))
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Load) and len(node.elts) > 1:
        if not all(isinstance(getattr(each, "value", None), str) for each in node.elts[:2]):
            yield type(node)([node.elts[1], node.elts[0], *node.elts[2:]], node.ctx)
    elif isinstance(node, ast.Name) and node.id in OTHER and isinstance(node.ctx, ast.Load):
        yield ast.Name(OTHER[node.id], node.ctx)
    elif isinstance(node, ast.Attribute) and node.attr in OTHER and isinstance(node.ctx, ast.Load):
        yield ast.Attribute(node.value, OTHER[node.attr], node.ctx)


def _statements(node: ast.stmt) -> Iterator[ast.AST]:
    """The statement left out, or another one in its place."""
    gone = ast.Pass()
    if isinstance(node, ast.AugAssign):
        yield gone
        if type(node.op) in BINARY:
            yield ast.AugAssign(node.target, BINARY[type(node.op)](), node.value)
    elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom):
        yield gone
    elif isinstance(node, ast.If) and not node.orelse:
        always = copy(node)
        always.test = ast.Constant(True)
        yield from (gone, always)
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        names = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
        if node.targets[0].id in names:
            yield gone


def _numbers(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        if value > 1:
            yield value - 1
    elif isinstance(value, float):
        yield 0.1 if value == 0 else 1.2 * value


def _names_an_axis(node: ast.AST, parent: ast.AST, field: str) -> bool:
    if isinstance(parent, ast.UnaryOp) and isinstance(node, ast.Constant):
        return False
    if isinstance(parent, ast.keyword):
        return parent.arg in AXES
    if isinstance(parent, ast.Subscript):
        return getattr(parent.value, "attr", "") == "shape"
    by_axis = isinstance(parent, ast.Call) and getattr(parent.func, "attr", "") in BY_AXIS
    return by_axis and field == "args" and isinstance(node, ast.Constant | ast.UnaryOp)


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if isinstance(node.func, ast.Attribute) and name in DROPPED:
        yield node.func.value
    if name == "where" and len(node.args) == 3:
        yield from node.args[1:]
    elif len(node.args) > 1 and name not in UNORDERED and not any(map(_is_constant, node.args[:2])):
        yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    named = [i for i, keyword in enumerate(node.keywords) if keyword.arg and keyword.arg not in AXES]
    for place in named:
        yield ast.Call(node.func, node.args, node.keywords[:place] + node.keywords[place + 1 :])
    for one, two in zip(named, named[1:], strict=False):
        if not _is_constant(node.keywords[one].value) and not _is_constant(node.keywords[two].value):
            keywords = deepcopy(node.keywords)
            keywords[one].value, keywords[two].value = keywords[two].value, keywords[one].value
            yield ast.Call(node.func, node.args, keywords)


def _is_constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) or isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)
