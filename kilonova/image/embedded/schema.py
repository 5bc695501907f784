"""Tables of the embedded image service, and its questions. Bytes are files; these are the records."""

import sqlalchemy as sa

from kilonova.db.sql import P, Q, insert

metadata = sa.MetaData()

image = sa.Table(
    "image",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("visibility", sa.Text, nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("disk_format", sa.Text),
    sa.Column("container_format", sa.Text),
    sa.Column("size", sa.Integer),
    sa.Column("virtual_size", sa.Integer),
    sa.Column("min_disk", sa.Integer, nullable=False),
    sa.Column("min_ram", sa.Integer, nullable=False),
    sa.Column("checksum", sa.Text),
    sa.Column("os_hash_algo", sa.Text),
    sa.Column("os_hash_value", sa.Text),
    sa.Column("protected", sa.Integer, nullable=False),
    sa.Column("hidden", sa.Integer, nullable=False),
    sa.Column("properties", sa.Text, nullable=False),  # JSON: the same as rows of image_property
    sa.Column("created_at", sa.REAL, nullable=False),
    sa.Column("updated_at", sa.REAL, nullable=False),
    sa.Column("upload", sa.Text),  # who writes its bytes now: NULL or a token of one upload
    sa.Column("staged", sa.Integer, nullable=False),  # 1: a complete file waits for import
    sa.Column("key", sa.Text),  # (operation, item) that asked for it
    sa.Column("checker", sa.Integer),  # CHECKER_VERSION that passed its bytes
    sa.Index("image_owner_created", "owner", "created_at", "id"),
    sa.Index("image_visibility_created", "visibility", "created_at", "id"),
    sa.Index("image_created", "created_at", "id"),
    sa.Index("image_key", "owner", "key", unique=True),
)
prop = sa.Table(
    "image_property",
    metadata,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index("image_property_value", "name", "value", "image_id"),
)
tag = sa.Table(
    "image_tag",
    metadata,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("tag", sa.Text, primary_key=True),
    sa.Index("image_tag_tag", "tag", "image_id"),
)
member = sa.Table(
    "image_member",
    metadata,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("member_id", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("created_at", sa.REAL, nullable=False),
    sa.Column("updated_at", sa.REAL, nullable=False),
    sa.Index("image_member_member", "member_id", "status", "image_id"),
)
gone = sa.Table(  # ids are never given twice: hosts cache bytes by id
    "image_gone",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("deleted_at", sa.REAL, nullable=False),
)

INSERT_IMAGE = insert(image)
INSERT_PROP = insert(prop)
INSERT_TAG = Q(
    sa.text("INSERT INTO image_tag (image_id, tag) VALUES (:image_id, :tag) ON CONFLICT DO NOTHING")
)
INSERT_MEMBER = insert(member)
INSERT_GONE = insert(gone)
GET = Q(sa.select(image).where(image.c.id == P("id")))
BY_KEY = Q(sa.select(image).where(image.c.owner == P("owner"), image.c.key == P("key")))
IS_GONE = Q(sa.select(gone.c.id).where(gone.c.id == P("id")))
TAGS = Q(sa.select(tag.c.tag).where(tag.c.image_id == P("id")).order_by(tag.c.tag))
MEMBERS = Q(
    sa.select(member)
    .where(member.c.image_id == P("id"))
    .order_by(member.c.created_at, member.c.member_id)
)
MEMBER = Q(
    sa.select(member).where(member.c.image_id == P("id"), member.c.member_id == P("member_id"))
)
COUNT_MEMBERS = Q(sa.select(sa.func.count()).where(member.c.image_id == P("id")))
SET_MEMBER = Q(
    sa.update(member)
    .where(member.c.image_id == P("id"), member.c.member_id == P("member"))
    .values(status=P("to_status"), updated_at=P("now"))
)
DROP_MEMBER = Q(
    sa.delete(member).where(member.c.image_id == P("id"), member.c.member_id == P("member_id"))
)
DROP_TAG = Q(sa.delete(tag).where(tag.c.image_id == P("id"), tag.c.tag == P("tag")))
DROP_TAGS = Q(sa.delete(tag).where(tag.c.image_id == P("id")))
DROP_PROPS = Q(sa.delete(prop).where(prop.c.image_id == P("id")))
DROP_MEMBERS = Q(sa.delete(member).where(member.c.image_id == P("id")))
DROP_IMAGE = Q(sa.delete(image).where(image.c.id == P("id")))
BYTES_OF = Q(
    sa.select(sa.func.coalesce(sa.func.sum(image.c.size), 0)).where(image.c.owner == P("owner"))
)
TOUCH = Q(sa.update(image).where(image.c.id == P("image")).values(updated_at=P("now")))
BEGIN = Q(
    sa.update(image)
    .where(
        image.c.id == P("image"),
        image.c.status == P("from_status"),
        image.c.upload.is_(None),
        image.c.staged == P("from_staged"),
    )
    .values(status=P("to_status"), upload=P("token"), updated_at=P("now"))
)
FINISH = Q(
    sa.update(image)
    .where(image.c.id == P("image"), image.c.upload == P("token"))
    .values(
        status="active",
        upload=None,
        staged=0,
        size=P("size_"),
        virtual_size=P("virtual"),
        checksum=P("md5"),
        os_hash_algo="sha512",
        os_hash_value=P("sha512"),
        checker=P("checker_"),
        updated_at=P("now"),
    )
)
STAGED = Q(
    sa.update(image)
    .where(image.c.id == P("image"), image.c.upload == P("token"))
    .values(
        upload=None,
        staged=1,
        size=P("size_"),
        checksum=P("md5"),
        os_hash_value=P("sha512"),
        updated_at=P("now"),
    )
)
GIVE_UP = Q(
    sa.update(image)
    .where(image.c.id == P("image"), image.c.upload == P("token"))
    .values(
        status="queued",
        upload=None,
        staged=0,
        size=None,
        checksum=None,
        os_hash_value=None,
        updated_at=P("now"),
    )
)
SET_STATUS = Q(
    sa.update(image)
    .where(image.c.id == P("image"), image.c.status == P("from_status"))
    .values(status=P("to_status"), updated_at=P("now"))
)
OUTDATED = Q(sa.select(image).where(image.c.status == "active", image.c.checker < P("version")))
CHECKED = Q(
    sa.update(image).where(image.c.id == P("image")).values(status=P("to_status"), checker=P("v"))
)
WITH_FILES = Q(sa.select(image.c.id, image.c.status, image.c.staged, image.c.upload))
RESET = Q(
    sa.update(image)
    .where(image.c.id == P("image"))
    .values(status="queued", upload=None, staged=0, size=None, checksum=None, os_hash_value=None)
)
UNIMPORT = Q(
    sa.update(image).where(image.c.id == P("image")).values(status="uploading", upload=None)
)
