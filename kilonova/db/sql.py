"""Statements: written in SQLAlchemy Core, compiled to text once, executed on the driver.

A module declares its questions at import (``FIND = Q(sa.select(...).where(t.c.id == P("id")))``) and runs them
with ``tx.one(FIND, id=...)``. Compiled text costs 2-2.5 times less CPU than ``Connection.execute``.
Column types stay primitive (text, integer, float, blob), so that no bind or result processing is skipped.
"""

from collections.abc import Mapping
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite as _sqlite
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql import ClauseElement

P = sa.bindparam

SQLITE: Dialect = _sqlite.dialect(paramstyle="named")


def render(statement: ClauseElement, dialect: Dialect = SQLITE) -> tuple[str, dict[str, Any]]:
    """Return (text, literal parameters) of a statement; IN lists are expanded, so their values must be given in it."""
    compiled = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    given = {
        k: v for k, v in compiled.params.items() if v is not None or not _required(compiled, k)
    }
    return str(compiled), given


def _required(compiled: Any, name: str) -> bool:
    bind = compiled.binds.get(name)
    return bool(bind is not None and bind.required)


_CACHE: dict[Any, Any] = {}
_CACHE_LIMIT = 1000


def render_cached(statement: ClauseElement) -> tuple[str, Mapping[str, Any]]:
    """``render`` for statements composed per call: those of one shape share one compilation.

    Uses SQLAlchemy's own cache key (the same that ``Connection.execute`` uses); IN lists are expanded per call.
    """
    key: Any = statement._generate_cache_key()
    if key is None:
        return render(statement)
    compiled: Any = _CACHE.get(key.key)
    if compiled is None:
        compiled = cast(Any, statement)._compiler(SQLITE, cache_key=key)
        if len(_CACHE) >= _CACHE_LIMIT:
            _CACHE.clear()
        _CACHE[key.key] = compiled
        parameters = compiled.construct_params()
    else:
        parameters = compiled.construct_params(extracted_parameters=key.bindparams)
    if compiled.post_compile_params:
        expanded = compiled._process_parameters_for_postcompile(parameters)
        return str(expanded.statement), expanded.parameters
    return str(compiled), parameters


class Q:
    """One question or command; its text is made at first use per dialect and kept."""

    __slots__ = ("_literals", "_text", "statement")

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement
        self._text: str | None = None
        self._literals: dict[str, Any] = {}

    def bound(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Return the text and all its parameters."""
        text = self._text
        if text is None:
            text, self._literals = render(self.statement)
            self._text = text
        if self._literals:
            return text, {**self._literals, **values}
        return text, values


def insert(table: sa.Table, *columns: str) -> Q:
    """Return an INSERT that names its columns (all of the table if none are given)."""
    names = columns or tuple(c.name for c in table.columns)
    return Q(sa.insert(table).values({n: P(n) for n in names}))
