"""The dialects that statements and tables are compiled for on database servers: types, and orders as SQLite has them.

Integers have 64 bits, floats are double, text sorts by its bytes, and a NULL is the smallest value. MariaDB indexes
only text of a limited length: such columns are VARCHAR there.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql.base import MySQLTypeCompiler
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.asyncpg import PGCompiler_asyncpg, PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

TEXT_LENGTH = 255
"""Characters of text that MariaDB can have in an index; info["length"] of a column says another number."""
_COLLATION = "utf8mb4_nopad_bin"
_KEY_BYTES = 3000  # of 3072 that an index of MariaDB can have; numbers take 8 each


class _PostgresqlTypes(PGTypeCompiler):
    def visit_INTEGER(self, type_: Any, **kw: Any) -> str:  # noqa: N802 - SQLAlchemy's name
        return "BIGINT"

    def visit_FLOAT(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "DOUBLE PRECISION"

    def visit_REAL(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "DOUBLE PRECISION"  # as SQLite understands it

    def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return str(self.visit_TEXT(sa.Text(collation=type_.collation), **kw))

    def visit_BOOLEAN(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "BOOLEAN"


class _PostgresqlText(PGCompiler_asyncpg):
    """Sorts NULL as the smallest value; columns that are never NULL keep their indexes' order."""

    def order_by_clause(self, select: Any, **kw: Any) -> str:
        clauses = select._order_by_clauses
        if not any(_nullable(c) for c in clauses):
            return str(super().order_by_clause(select, **kw))  # type: ignore[no-untyped-call]
        by = ", ".join(self.process(_nulls_smallest(c), **kw) for c in clauses)
        return f" ORDER BY {by}"


def _inner(clause: Any) -> Any:
    while isinstance(clause, UnaryExpression) and clause.modifier is not None:
        clause = clause.element
    return clause


def _nullable(clause: Any) -> bool:
    return bool(getattr(_inner(clause), "nullable", False))


def _nulls_smallest(clause: Any) -> Any:
    if not _nullable(clause):
        return clause
    descending = isinstance(clause, UnaryExpression) and clause.modifier is operators.desc_op
    return sa.nulls_last(clause) if descending else sa.nulls_first(clause)


class _Postgresql(PGDialect_asyncpg):
    type_compiler_cls = _PostgresqlTypes
    statement_compiler = _PostgresqlText
    supports_statement_cache = True


class _MariadbTypes(MySQLTypeCompiler):
    def visit_INTEGER(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "BIGINT"

    def visit_FLOAT(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "DOUBLE"

    def visit_TEXT(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "LONGTEXT"

    def visit_large_binary(self, type_: Any, **kw: Any) -> str:
        return "LONGBLOB"


class _MariadbText(MySQLDialect_pymysql.statement_compiler):  # type: ignore[misc, name-defined, valid-type, unused-ignore]
    def visit_cast(self, cast: Any, **kw: Any) -> str:
        if isinstance(cast.type, sa.Float):  # which SQLAlchemy thinks is impossible, and leaves out
            return f"CAST({self.process(cast.clause, **kw)} AS DOUBLE)"
        return str(super().visit_cast(cast, **kw))


class _Mariadb(MySQLDialect_pymysql):
    type_compiler_cls = _MariadbTypes
    statement_compiler = _MariadbText
    supports_statement_cache = True


def _mariadb() -> Dialect:
    made = _Mariadb(paramstyle="format", is_mariadb=True)
    made.server_version_info = (10, 11)
    return made


POSTGRESQL: Dialect = _Postgresql(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
MARIADB: Dialect = _mariadb()


def statements(metadata: sa.MetaData, dialect: Dialect) -> list[str]:
    """Return what creates a schema on a database server, repeatable as far as the server's DDL is not undone."""
    fitted = _fitted(metadata, dialect)
    out = [_text(CreateTable(t, if_not_exists=True), dialect) for t in fitted.sorted_tables]
    for table in fitted.sorted_tables:
        for index in sorted(table.indexes, key=lambda i: str(i.name)):
            out.append(_text(CreateIndex(index, if_not_exists=True), dialect))
    return out


def _text(element: Any, dialect: Dialect) -> str:
    return str(element.compile(dialect=dialect)).strip()


def _fitted(metadata: sa.MetaData, dialect: Dialect) -> sa.MetaData:
    """Return a copy with the types, collations and partial indexes of a dialect."""
    copy = sa.MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(copy)
    for table in copy.sorted_tables:
        on_mysql = dialect.name == "mysql"
        indexed = _indexed(table)
        for column in table.columns:
            if isinstance(column.type, sa.Text):
                said = metadata.tables[table.key].c[column.name].info.get("length")
                if not on_mysql:
                    column.type = sa.Text(collation="C")
                elif column.name in indexed:
                    column.type = sa.String(said or indexed[column.name])
        for index in table.indexes:
            where = index.dialect_options["sqlite"]["where"]
            if where is not None and not on_mysql:
                index.dialect_options["postgresql"]["where"] = _on(table, where)
        if on_mysql:
            table.kwargs.update(mysql_engine="InnoDB", mysql_charset="utf8mb4")
            table.kwargs.update(mysql_collate=_COLLATION)
    return copy


def _indexed(table: sa.Table) -> dict[str, int]:
    """Return the columns that are in an index -> how long their text may be, so that every index fits."""
    found: dict[str, int] = {}
    keys = [list(i.columns) for i in table.indexes]
    keys += [list(getattr(k, "columns", ())) for k in table.constraints]
    keys += [[c] for c in table.columns if c.unique or c.foreign_keys]
    for columns in keys:
        texts = sum(isinstance(c.type, sa.String) for c in columns)
        most = TEXT_LENGTH if texts <= 3 else _KEY_BYTES // 4 // texts
        for c in columns:
            found[c.name] = min(most, found.get(c.name, most))
    return found


def _on(table: sa.Table, where: Any) -> Any:
    """Return a condition with the columns of a copied table; text stays as it is."""
    from sqlalchemy.sql.util import ClauseAdapter

    return where if isinstance(where, sa.TextClause) else ClauseAdapter(table).traverse(where)
