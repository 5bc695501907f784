"""Reading and writing image records: one function, one question. The caller holds the transaction."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.common.context import Context
from kilonova.common.errors import Conflict
from kilonova.db.engine import Row, Tx
from kilonova.image.embedded import schema as s
from kilonova.objects.image import Image

_DICT = msgspec.json.Decoder(dict[str, str])
_NOT_SAID = ("protected", "hidden", "properties", "upload", "staged", "key", "checker")
COLUMNS = tuple(c.name for c in s.image.columns if c.name not in _NOT_SAID)


def to_object(row: Row, tags: Iterable[str]) -> Image:
    """Return the record as compute sees it."""
    values = {name: row[name] for name in COLUMNS}
    if values["status"] not in ("active", "deactivated"):
        values["checksum"] = values["os_hash_value"] = None  # staged bytes are nobody's yet
    return Image(
        **values,
        protected=bool(row["protected"]),
        hidden=bool(row["hidden"]),
        properties=_DICT.decode(row["properties"]),
        tags=tuple(tags),
    )


def find(tx: Tx, image_id: str) -> Image | None:
    """Return the image, or None."""
    row = tx.one(s.GET, id=image_id)
    return None if row is None else to_object(row, tags_of(tx, image_id))


def made_with(tx: Tx, owner: str, properties: Mapping[str, str]) -> list[Image]:
    """Return an owner's images that have all these properties, the newest first."""
    query = sa.select(s.image).where(s.image.c.owner == owner)
    for name, value in properties.items():
        has = sa.select(s.prop.c.image_id).where(s.prop.c.name == name, s.prop.c.value == value)
        query = query.where(s.image.c.id.in_(has))
    rows = tx.select(query.order_by(s.image.c.created_at.desc(), s.image.c.id))
    return [to_object(row, tags_of(tx, row["id"])) for row in rows]


def tags_of(tx: Tx, image_id: str) -> list[str]:
    """Return the image's tags in order."""
    return [r[0] for r in tx.all(s.TAGS, id=image_id)]


def is_seen_by(tx: Tx, image: Image, ctx: Context) -> bool:
    """Tell whether the caller may know of the image. source: Glance, is_image_visible."""
    if ctx.is_admin or image.visibility in ("public", "community"):
        return True
    if image.owner is not None and image.owner == ctx.project_id:
        return True
    if image.visibility != "shared" or ctx.project_id is None:
        return False
    return tx.one(s.MEMBER, id=image.id, member_id=ctx.project_id) is not None


def add(tx: Tx, image: Image, key: str | None = None) -> None:
    """Write a new record; Conflict when the id is or was in use."""
    if tx.one(s.GET, id=image.id) or tx.one(s.IS_GONE, id=image.id):
        raise Conflict(f"Image ID {image.id} already exists!")
    tx.run(
        s.INSERT_IMAGE,
        **{name: getattr(image, name) for name in COLUMNS},
        protected=int(image.protected),
        hidden=int(image.hidden),
        properties=msgspec.json.encode(image.properties).decode(),
        upload=None,
        staged=0,
        key=key,
        checker=None,
    )
    _write_parts(tx, image)


def replace(tx: Tx, image: Image) -> None:
    """Write a changed record: what its owner may change, and nothing about its bytes."""
    tx.change(
        s.image.update()
        .where(s.image.c.id == image.id)
        .values(
            name=image.name,
            visibility=image.visibility,
            owner=image.owner,
            disk_format=image.disk_format,
            container_format=image.container_format,
            min_disk=image.min_disk,
            min_ram=image.min_ram,
            protected=int(image.protected),
            hidden=int(image.hidden),
            properties=msgspec.json.encode(image.properties).decode(),
            updated_at=image.updated_at,
        )
    )
    tx.run(s.DROP_PROPS, id=image.id)
    tx.run(s.DROP_TAGS, id=image.id)
    _write_parts(tx, image)


def _write_parts(tx: Tx, image: Image) -> None:
    rows: list[dict[str, Any]] = [
        {"image_id": image.id, "name": k, "value": v} for k, v in image.properties.items()
    ]
    tx.many(s.INSERT_PROP, rows)
    tx.many(s.INSERT_TAG, [{"image_id": image.id, "tag": t} for t in image.tags])


def drop(tx: Tx, image_id: str, now: float) -> bool:
    """Remove a record and keep its id out of use; False when there is none."""
    if tx.run(s.DROP_IMAGE, id=image_id) == 0:
        return False
    for q in (s.DROP_PROPS, s.DROP_TAGS, s.DROP_MEMBERS):
        tx.run(q, id=image_id)
    tx.run(s.INSERT_GONE, id=image_id, deleted_at=now)
    return True
