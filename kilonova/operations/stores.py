"""The whole schema of a home database: its own tables, the journal, and (globally) placement."""

from kilonova.db.schema.cell import METADATA as CELL
from kilonova.db.schema.world import METADATA as WORLD
from kilonova.placement.schema import add_tables as add_placement
from kilonova.saga.schema import add_tables as add_journal

add_journal(WORLD)
add_placement(WORLD)
add_journal(CELL)

__all__ = ["CELL", "WORLD"]
