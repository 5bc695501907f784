"""Columns that grow in place: numbers per row, and values of which there are few.

A segment is a set of rows with one length: the view has one for root providers (with the facts of their hosts) and one
for the providers below them.
"""

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from kilonova.placement.inventories import Inventory
from kilonova.placement.names import MAX_UNIT

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
T = TypeVar("T", bound=Hashable)

FIRST_SIZE = 64


class Numbers:
    """One number per row."""

    __slots__ = ("data", "fill")

    def __init__(self, dtype: Any, fill: float = 0, size: int = FIRST_SIZE) -> None:
        self.fill = fill
        self.data: npt.NDArray[Any] = np.full(size, fill, dtype)

    def grow(self, size: int) -> None:
        """Make room for ``size`` rows."""
        bigger = np.full(size, self.fill, self.data.dtype)
        bigger[: len(self.data)] = self.data
        self.data = bigger


class Interned(Generic[T]):
    """A column whose distinct values are few: each is kept once, and a question is asked per value, not per row."""

    __slots__ = ("_ids", "ids", "values")

    def __init__(self, empty: T, size: int = FIRST_SIZE) -> None:
        self.values: list[T] = [empty]
        self._ids: dict[T, int] = {empty: 0}
        self.ids = Numbers(np.int32, 0, size)

    def set(self, row: int, value: T) -> None:
        """Put ``value`` in a row."""
        found = self._ids.get(value)
        if found is None:
            found = self._ids[value] = len(self.values)
            self.values.append(value)
        self.ids.data[row] = found

    def get(self, row: int) -> T:
        """Return a row's value."""
        return self.values[int(self.ids.data[row])]

    def where(self, fn: Callable[[T], bool], n: int) -> Bools | None:
        """Return the mask of the first ``n`` rows whose value ``fn`` accepts; None when it accepts every value."""
        answers = np.fromiter((fn(v) for v in self.values), np.bool_, len(self.values))
        if answers.all():
            return None
        mask: Bools = answers.take(self.ids.data[:n])
        return mask

    def numbers(self, fn: Callable[[T], float], n: int) -> Floats:
        """Return ``fn`` of each of the first ``n`` rows' values."""
        answers = np.fromiter((fn(v) for v in self.values), np.float32, len(self.values))
        out: Floats = answers.take(self.ids.data[:n])
        return out


class ClassColumn:
    """One resource class over the rows of a segment. A row without inventory of it has capacity -1: nothing fits.

    capacity: floor((total - reserved) * ratio). free = capacity - used, kept so that a decision compares once.
    """

    __slots__ = ("capacity", "free", "highest_min", "highest_step", "lowest_max", "records", "used")

    def __init__(self, size: int) -> None:
        self.capacity = Numbers(np.int64, -1, size)
        self.free = Numbers(np.int64, -1, size)
        self.used = Numbers(np.int64, 0, size)
        self.records: list[Inventory | None] = [None] * size
        self.lowest_max, self.highest_min, self.highest_step = MAX_UNIT, 1, 1

    def grow(self, size: int) -> None:
        """Make room for ``size`` rows."""
        for column in (self.capacity, self.free, self.used):
            column.grow(size)
        self.records += [None] * (size - len(self.records))

    def put(self, row: int, record: Inventory | None, used: int) -> None:
        """Set a row's inventory and usage."""
        self.records[row] = record
        self.used.data[row] = used
        capacity = -1 if record is None else record.capacity
        self.capacity.data[row] = capacity
        self.free.data[row] = -1 if record is None else capacity - used
        if record is not None:
            self.lowest_max = min(self.lowest_max, record.max_unit)
            self.highest_min = max(self.highest_min, record.min_unit)
            self.highest_step = max(self.highest_step, record.step_size)

    def add(self, row: int, more: int) -> None:
        """Use ``more`` (or, negative, less) of a row."""
        self.used.data[row] += more
        if self.records[row] is not None:
            self.free.data[row] -= more

    def fits(self, need: int, n: int, free: Ints | None = None) -> Bools:
        """Return which of the first ``n`` rows can give ``need``. free: other numbers than the column's own."""
        mask: Bools = (self.free.data[:n] if free is None else free) >= need
        if need > self.lowest_max or need < self.highest_min or need % self.highest_step:
            self._units(mask, need)
        return mask

    def _units(self, mask: Bools, need: int) -> None:
        """Drop rows that never give such an amount; only asked when some row might not."""
        for row in np.flatnonzero(mask):
            r = self.records[row]
            if r is None or not r.min_unit <= need <= r.max_unit or need % r.step_size:
                mask[row] = False


class Segment:
    """Rows of providers: who they are, their root's row, inventory, traits, aggregates, generation."""

    def __init__(self) -> None:
        self.n = 0
        self.size = FIRST_SIZE
        self.uuids: list[str] = []
        self.present = Numbers(np.bool_, False)
        self.root = Numbers(np.int32, -1)
        self.parents: list[str | None] = []
        self.names: list[str] = []
        self.generations: list[int] = []
        self.created: list[float] = []
        self.classes: dict[str, ClassColumn] = {}
        self.traits: Interned[frozenset[str]] = Interned(frozenset())
        self.aggregates: Interned[frozenset[str]] = Interned(frozenset())
        self._spare: list[int] = []

    def columns(self) -> list[Any]:
        """Return everything that grows with the rows."""
        return [
            self.present,
            self.root,
            self.traits.ids,
            self.aggregates.ids,
            *self.classes.values(),
        ]

    def new_row(self, uuid: str, name: str) -> int:
        """Return a row for a new provider, one that was left if there is any."""
        if self._spare:
            row = self._spare.pop()
            self.uuids[row], self.parents[row], self.generations[row] = uuid, None, -1
            self.names[row] = name
        else:
            row = self.n
            if row == self.size:
                self.size *= 2
                for column in self.columns():
                    column.grow(self.size)
            self.uuids.append(uuid)
            self.names.append(name)
            self.parents.append(None)
            self.generations.append(-1)
            self.created.append(0.0)
            self.n += 1
        self.present.data[row] = True
        return row

    def drop_row(self, row: int) -> None:
        """Leave a row: it holds nothing until a new provider takes it."""
        self.present.data[row] = False
        self.root.data[row] = -1
        for column in self.classes.values():
            column.put(row, None, 0)
        self.traits.set(row, frozenset())
        self.aggregates.set(row, frozenset())
        self.uuids[row] = ""
        self._spare.append(row)

    def column(self, resource_class: str) -> ClassColumn:
        """Return a class's column, made when it is new."""
        found = self.classes.get(resource_class)
        if found is None:
            found = self.classes[resource_class] = ClassColumn(self.size)
        return found
