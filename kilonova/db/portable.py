"""What SQL says differently on SQLite, PostgreSQL and MariaDB, as constructs that mean the same on each."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from kilonova.db.sql import P


class _Items(FunctionElement[str]):
    """The texts of a JSON list that is bound to a name, as a subquery's rows."""

    inherit_cache = True
    type = sa.Text()


@compiles(_Items)
def _items(element: Any, compiler: Any, **kw: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **kw)}))"


@compiles(_Items, "postgresql")
def _items_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    bound = compiler.process(element.clauses, **kw)
    return f"(SELECT json_array_elements_text(CAST({bound} AS JSON)))"


@compiles(_Items, "mysql")
def _items_mysql(element: Any, compiler: Any, **kw: Any) -> str:
    bound = compiler.process(element.clauses, **kw)
    column = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PATH '$'"
    return f"(SELECT t.v FROM JSON_TABLE({bound}, '$[*]' COLUMNS (v {column})) AS t)"


def among(column: Any, name: str) -> sa.ColumnElement[bool]:
    """Return ``column IN (the JSON list of texts bound to name)``: one statement text for lists of any length."""
    return sa.type_coerce(column, sa.Text).op("IN", is_comparison=True)(
        _Items(P(name, type_=sa.Text))
    )


class _Member(FunctionElement[str]):
    """The text that a JSON object has under a key."""

    inherit_cache = True
    type = sa.Text()


def _parts(element: Any, compiler: Any, kw: Any) -> tuple[str, str]:
    column, key = element.clauses
    return compiler.process(column, **kw), compiler.process(key, **kw)


@compiles(_Member)
def _member(element: Any, compiler: Any, **kw: Any) -> str:
    column, key = _parts(element, compiler, kw)
    return f"(SELECT value FROM json_each({column}) WHERE key = {key})"


@compiles(_Member, "postgresql")
def _member_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    column, key = _parts(element, compiler, kw)
    return f"(CAST({column} AS JSON) ->> {key})"


@compiles(_Member, "mysql")
def _member_mysql(element: Any, compiler: Any, **kw: Any) -> str:
    column, key = _parts(element, compiler, kw)
    path = f"CONCAT('$.', JSON_QUOTE({key}) COLLATE utf8mb4_nopad_bin)"
    return f"JSON_VALUE({column}, {path})"


def member(column: Any, key: str) -> sa.ColumnElement[str]:
    """Return what the JSON object of a column has under ``key``, a text; NULL when it has none."""
    return _Member(column, sa.literal(key, sa.Text))


class _Gathered(FunctionElement[str]):
    """The texts of a column, of all rows, as a JSON list."""

    inherit_cache = True
    type = sa.Text()


@compiles(_Gathered)
def _gathered(element: Any, compiler: Any, **kw: Any) -> str:
    return f"json_group_array({compiler.process(element.clauses, **kw)})"


@compiles(_Gathered, "postgresql")
def _gathered_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return f"CAST(coalesce(json_agg({compiler.process(element.clauses, **kw)}), '[]') AS TEXT)"


@compiles(_Gathered, "mysql")
def _gathered_mysql(element: Any, compiler: Any, **kw: Any) -> str:
    return f"COALESCE(JSON_ARRAYAGG({compiler.process(element.clauses, **kw)}), '[]')"


def gathered(column: Any) -> sa.ColumnElement[str]:
    """Return a column's texts as a JSON list, in any order; ``[]`` of no rows."""
    return _Gathered(column)


class _Matches(FunctionElement[bool]):
    """Whether a column matches a regular expression, letters in either case."""

    inherit_cache = True
    type = sa.Boolean()


@compiles(_Matches)
def _matches(element: Any, compiler: Any, **kw: Any) -> str:
    column, wanted = _parts(element, compiler, kw)
    return f"{column} REGEXP {wanted}"


@compiles(_Matches, "postgresql")
def _matches_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    column, wanted = _parts(element, compiler, kw)
    return f"{column} ~* {wanted}"


@compiles(_Matches, "mysql")
def _matches_mysql(element: Any, compiler: Any, **kw: Any) -> str:
    column, wanted = _parts(element, compiler, kw)
    return f"{column} REGEXP CONCAT('(?i)', {wanted})"


def matches(column: Any, wanted: str) -> sa.ColumnElement[bool]:
    """Return whether a column matches a regular expression; see common/pattern.py for what SQLite does with it."""
    return _Matches(column, sa.literal(wanted, sa.Text))


class _Whole(FunctionElement[int]):
    """A number that is not negative, without its fraction."""

    inherit_cache = True
    type = sa.Integer()


@compiles(_Whole)
def _whole(element: Any, compiler: Any, **kw: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **kw)} AS INTEGER)"


@compiles(_Whole, "postgresql")
@compiles(_Whole, "mysql")
def _whole_on_servers(element: Any, compiler: Any, **kw: Any) -> str:
    return f"FLOOR({compiler.process(element.clauses, **kw)})"


def whole(column: Any) -> sa.ColumnElement[int]:
    """Return a column's number without its fraction; servers' casts would round it."""
    return _Whole(column)
