"""Rows of database servers: tuples that are asked by column name too, as sqlite3.Row is."""

from collections.abc import Callable, Iterable
from typing import Any


def factory(names: tuple[str, ...]) -> Callable[[Iterable[Any]], Any]:
    """Return a class of rows with these columns."""
    places: dict[str, int] = {}
    for i, name in enumerate(names):
        places.setdefault(name, i)

    class Row(tuple[Any, ...]):
        __slots__ = ()

        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, str):
                return tuple.__getitem__(self, places[key])
            return tuple.__getitem__(self, key)

        def keys(self) -> list[str]:
            return list(names)

    return Row
