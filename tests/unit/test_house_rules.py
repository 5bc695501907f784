"""Habits of the house as checks. Every rule SM-1 … SM-28 is a check here, a rule of ruff, or a line for the reviewer:
docs/review-checklist.md says which, and the first test keeps that page true. SM-ALL."""

import ast
import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

import kilonova.objects
from kilonova.common.config import BadConfig, Settings, load
from kilonova.common.context import Context
from kilonova.common.errors import KilonovaError
from kilonova.objects.base import Versioned
from kilonova.virt import driver

ROOT = Path(__file__).parents[2]
CODE = sorted((ROOT / "kilonova").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CHECKLIST = ROOT / "docs" / "review-checklist.md"
HERE = Path(__file__)


@cache
def tree(path: Path) -> ast.Module:
    """Return a file's syntax tree with ``parent`` links."""
    module = ast.parse(path.read_text(), str(path))
    for node in ast.walk(module):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    return module


def at(path: Path, node: ast.AST) -> str:
    """Name a place."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def above(node: ast.AST) -> Iterator[ast.AST]:
    """Give what encloses a node, from inside out."""
    while (parent := getattr(node, "parent", None)) is not None:
        yield parent
        node = parent


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Give every function of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            yield node


# -- the page --------------------------------------------------------------------------------------------------------


def _rows() -> dict[int, str]:
    """Return rule number -> how it is kept, from the table of the checklist."""
    found = {}
    for line in CHECKLIST.read_text().splitlines():
        if m := re.match(r"\| SM-(\d+) \|[^|]*\| ([^|]*) \|", line):
            found[int(m[1])] = m[2].strip()
    return found


def test_all_28_rules_are_mapped() -> None:
    """SM-ALL: to a check of this file that exists, to a rule of ruff that is on, or to the reviewer."""
    rows = _rows()
    assert sorted(rows) == list(range(1, 29))
    mine = {n for n, f in globals().items() if n.startswith("test_") and callable(f)}
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["select"]
    for number, how in rows.items():
        named = set(re.findall(r"`(test_\w+)`", how))
        codes = re.findall(r"ruff `([A-Z]+\d+)`", how)
        assert named or codes or how.startswith("review"), f"SM-{number} is kept by nobody"
        assert named <= mine, f"SM-{number} names a check that is not there: {named - mine}"
        assert all(code.startswith(tuple(ruff)) for code in codes), (
            f"SM-{number} names a rule of ruff that is off"
        )


# -- exceptions ------------------------------------------------------------------------------------------------------


def _broad(path: Path) -> list[str]:
    return [
        at(path, node)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    ]


def test_no_broad_except_in_tests() -> None:
    """SM-3: a test catches the exact class or lets it fail."""
    assert [place for path in TESTS for place in _broad(path)] == []


LOOPS = {
    "http/app.py": "request",
    "saga/runner.py": "saga step",
    "saga/outcomes.py": "saga step",
    "saga/transition.py": "saga step",
    "saga/engine.py": "saga step",
    "saga/tending.py": "a lease: a database that does not answer stops no other one",
    "bus/delivery.py": "RPC dispatch",
    "bus/nats.py": "the loop that runs the bus's client library",
    "agent/orders.py": "RPC dispatch",
    "agent/queries.py": "RPC dispatch",
    "agent/workers.py": "RPC dispatch",
    "reconcile/loop.py": "reconciler",
    "network/embedded/state.py": "reconciler",
    "volume/embedded/exporting.py": "reconciler",
    "server/process.py": "closing the other parts when one does not close",
}


def test_broad_except_only_in_the_loops_that_run_other_code() -> None:
    """STYLE 3: request, saga step, reconciler, RPC dispatch."""
    found = {p.rpartition(":")[0].removeprefix("kilonova/") for path in CODE for p in _broad(path)}
    assert found <= set(LOOPS)


_OWN_ROOTS = {
    "KilonovaError": "the root of all",
    "Killed": "a test's stand-in for kill -9; the engine must not handle it",
    "Again": "a signal between the engine and a step, never an error that somebody sees",
    "RecordFailed": "the same: what a step's record raised, with its cause",
    "_CancelSeen": "the same",
    "ServerError": "what a database server says, as sqlite3.Error is; what it means for a caller is raised instead",
    "_Again": "a signal of db/server.py to itself",
}
_LONG = {
    "kilonova/http/app.py": "_serve: one request from top to bottom",
}


def test_one_exception_root() -> None:
    """SM-5: what we raise on purpose descends from KilonovaError; nothing of ours stands beside it."""
    foreign = {"Exception", "RuntimeError", "OSError", "LookupError", "KeyError", "TypeError"}
    wrong = [
        f"{at(path, node)} {node.name}"
        for path in CODE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and node.name not in _OWN_ROOTS
        and foreign & {b.id for b in node.bases if isinstance(b, ast.Name)}
    ]
    assert wrong == []
    assert issubclass(BadConfig, KilonovaError)


def test_init_is_never_called_again() -> None:
    """SM-6: re-initialisation is a method of its own."""
    wrong = [
        at(path, node)
        for path in CODE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "__init__"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "self"
    ]
    assert wrong == []


# -- signatures ------------------------------------------------------------------------------------------------------


def test_driver_takes_typed_instructions_only() -> None:
    """SM-4: no dict, no **kwargs, no driver's own blob."""
    interface: Any = driver.Driver
    methods = [m for n, m in inspect.getmembers(interface, inspect.isfunction) if n[0] != "_"]
    assert methods
    for method in methods:
        for parameter in inspect.signature(method).parameters.values():
            text = str(parameter.annotation)
            assert parameter.kind is not inspect.Parameter.VAR_KEYWORD, method
            assert "dict" not in text and "Any" not in text, f"{method.__name__}({parameter})"


def test_context_comes_first_and_is_not_optional() -> None:
    """SM-10: a parameter that says who asks is the first one (after self, cls or a transaction), without default."""
    wrong = []
    for path in CODE:
        for f in functions(path):
            args = [*f.args.posonlyargs, *f.args.args]
            kinds = [ast.unparse(a.annotation) if a.annotation else "" for a in args]
            if "Context" not in kinds or f.name == "__init__":
                continue
            before = [
                a.arg
                for a, k in zip(args, kinds, strict=True)
                if a.arg not in ("self", "cls", "tx", "services") and "Tx" not in k
            ]
            first = args[kinds.index("Context")].arg
            has_default = len(args) - kinds.index("Context") <= len(f.args.defaults)
            if before[0] != first or has_default:
                wrong.append(f"{at(path, f)} {f.name}")
    assert [w for w in wrong if not w.startswith(tuple(CONTEXT_LATER))] == []


CONTEXT_LATER: dict[str, str] = {
    "kilonova/image/embedded/records.py": "is_seen_by(tx, image, ctx) reads as a question about the image",
    "kilonova/http/": "the request carries it",
}


def test_no_comprehension_for_its_effects() -> None:
    """SM-11: a loop is a loop (ruff C416 has the copies)."""
    wrong = [
        at(path, node)
        for path in [*CODE, *TESTS]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.ListComp | ast.SetComp | ast.DictComp)
    ]
    assert wrong == []


def test_functions_are_flat_and_short() -> None:
    """SM-24: no function inside a function inside a function; no body of more than 60 lines."""
    deep, long = [], []
    for path in CODE:
        for f in functions(path):
            outer = sum(isinstance(a, ast.FunctionDef) for a in above(f))
            if outer > 1:
                deep.append(f"{at(path, f)} {f.name}")
            lines = (f.end_lineno or f.lineno) - f.body[0].lineno + 1
            is_a_table = sum(isinstance(n, ast.stmt) for n in ast.walk(f)) <= 12
            if lines > 60 and not is_a_table:
                long.append(f"{at(path, f)} {f.name}: {lines} lines")
    assert deep == []
    assert [x for x in long if not x.startswith(tuple(_LONG))] == []


# -- state -----------------------------------------------------------------------------------------------------------


def test_every_setting_is_typed_and_read_at_start(tmp_path: Path) -> None:
    """SM-13: a structured value is parsed by its own type, and the error names file, key and fault."""
    hints = {name: str(f.type) for name, f in Settings.__dataclass_fields__.items()}
    assert all(h != "Any" for h in hints.values())
    path = tmp_path / "kilonova.toml"
    for text, words in (
        ("public_cidr = '300.0.0.0/8'", "public_cidr"),
        ("api_threads = 'many'", "api_threads"),
        ("no_such_setting = 1", "no_such_setting"),
        ("synchronous = 'SOMETIMES'", "synchronous"),
        ("this is not TOML", ""),
    ):
        path.write_text(text)
        with pytest.raises(BadConfig) as caught:
            load(path, {})
        assert str(path) in caught.value.message
        assert words in caught.value.message


_MOUNTERS = {
    "kilonova/agent/helper/": "the root helper owns what is mounted on a host",
    "kilonova/server/privileges.py": "the cloud's process shows itself its own code, before any thread",
}


def test_one_place_mounts() -> None:
    """SM-14: nobody else calls mount or umount."""
    wrong = [
        at(path, node)
        for path in CODE
        for node in ast.walk(tree(path))
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("mount", "umount", "umount2")
        )
        or (
            isinstance(node, ast.List)
            and node.elts
            and isinstance(node.elts[0], ast.Constant)
            and node.elts[0].value in ("mount", "umount")
        )
    ]
    assert [w for w in wrong if not w.startswith(tuple(_MOUNTERS))] == []


def test_waiting_on_a_condition_is_a_loop() -> None:
    """SM-16: another waiter may have run first; ``wait_for`` loops by itself."""
    wrong = []
    for path in CODE:
        conditions = {
            ast.unparse(target)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Assign | ast.AnnAssign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func).endswith("Condition")
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        }
        for node in ast.walk(tree(path)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "wait"
                and ast.unparse(node.func.value) in conditions
                and not any(isinstance(a, ast.While) for a in above(node))
            ):
                wrong.append(at(path, node))
    assert wrong == []


def _tables() -> Iterator[sa.Table]:
    from kilonova.db.schema import cell, world
    from kilonova.identity.embedded import schema as identity
    from kilonova.image.embedded import schema as image
    from kilonova.network.embedded import schema as network

    for metadata in (
        cell.METADATA,
        world.METADATA,
        identity.metadata,
        image.metadata,
        network.metadata,
    ):
        yield from metadata.sorted_tables


def test_no_record_without_identity() -> None:
    """SM-17: ids and primary keys are never NULL; legacy rows are made in tests, not allowed in schemas."""
    wrong = [
        f"{table.name}.{column.name}"
        for table in _tables()
        for column in table.columns
        if column.nullable and (column.primary_key or column.name in ("id", "uuid"))
    ]
    assert wrong == []
    assert all(len(table.primary_key.columns) for table in _tables())


def _records() -> list[type[Versioned]]:
    for module in pkgutil.iter_modules(kilonova.objects.__path__):
        importlib.import_module(f"kilonova.objects.{module.name}")
    return Versioned.__subclasses__()


def test_records_take_declared_fields_only() -> None:
    """SM-18, SM-26: frozen, unknown keywords and unknown fields refused."""
    records = _records()
    assert len(records) > 20
    for record in records:
        config = record.__struct_config__
        assert config.frozen and config.forbid_unknown_fields, record
        with pytest.raises(TypeError):
            record(no_such_field=1)  # type: ignore[call-arg]


def test_nobody_waits_by_select() -> None:
    """``select()`` takes no descriptor beyond 1,023, and a process of ours may have more: ``poll`` takes all."""
    wrong = [
        at(path, node)
        for path in CODE + TESTS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "select.select"
    ]
    assert wrong == []


def test_tests_leave_modules_alone() -> None:
    """SM-20: what a test changes in a module it changes by ``monkeypatch``, which restores it."""
    wrong = []
    for path in TESTS:
        modules = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        for node in ast.walk(tree(path)):
            targets = node.targets if isinstance(node, ast.Assign) else []
            wrong += [
                at(path, node)
                for t in targets
                if isinstance(t, ast.Attribute)
                and isinstance(t.value, ast.Name)
                and t.value.id in modules
            ]
    assert wrong == []


def test_the_context_cannot_be_changed() -> None:
    """SM-21: a changed context is another one."""
    ctx = Context(request_id="req-1", project_id="p")
    with pytest.raises(AttributeError):
        ctx.project_id = "q"  # type: ignore[misc]
    other = ctx.replace(project_id="q")
    assert (ctx.project_id, other.project_id) == ("p", "q")


def test_one_serialisation_for_all_records() -> None:
    """SM-23: no record has a JSON of its own."""
    wrong = []
    for path in sorted((ROOT / "kilonova" / "objects").glob("*.py")):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import) and any(
                a.name in ("json", "pickle") for a in node.names
            ):
                wrong.append(at(path, node))
            named = node.name if isinstance(node, ast.FunctionDef) else ""
            if named in ("to_json", "from_json", "to_dict", "from_dict", "to_primitive"):
                wrong.append(at(path, node))
    assert wrong == []


def test_nobody_changes_a_frozen_object() -> None:
    """SM-26: no temporary mutation, by whatever back door."""
    doors = ("temporary_mutation", "force_setattr", "object.__setattr__")
    wrong = [
        at(path, node)
        for path in CODE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(doors)
    ]
    assert wrong == []


# -- text ------------------------------------------------------------------------------------------------------------


def test_files_are_short_and_finished() -> None:
    """STYLE: under 500 lines; nothing in the code says that it is unfinished."""
    sizes = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in CODE}
    assert [name for name, lines in sizes.items() if lines > 500 and name not in _LONG] == []
    marks = re.compile(r"#.*\b(TODO|FIXME|XXX)\b|raise NotImplementedError\b")
    unfinished = [p for p in CODE if marks.search(p.read_text())]
    assert unfinished == []


def test_every_function_of_a_public_name_has_a_sentence() -> None:
    """STYLE 2, for what other files call: modules and classes say what they are."""
    wrong = [
        str(p.relative_to(ROOT))
        for p in CODE
        if p.read_text().strip() and not ast.get_docstring(tree(p))
    ]
    assert wrong == []


def test_msgspec_is_the_only_codec_at_rest() -> None:
    """Nothing is pickled, anywhere: pickles run code."""
    wrong = [
        str(p.relative_to(ROOT))
        for p in CODE
        if re.search(r"^\s*(import|from) (pickle|marshal|shelve)\b", p.read_text(), re.M)
    ]
    assert wrong == []
    assert msgspec.__name__ == "msgspec"
