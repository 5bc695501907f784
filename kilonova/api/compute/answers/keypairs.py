"""What the API answers about key pairs."""

from kilonova.http.answer import (
    FLAG,
    NUMBER,
    TEXT,
    TEXT_OR_NULL,
    Field,
    many,
    one,
    plain,
)

KEY = {
    "name": Field(TEXT),
    "public_key": Field(TEXT),
    "fingerprint": Field(TEXT),
    "type": Field({"enum": ["ssh", "x509"]}, since=2),
}
_SHOWN = {
    **KEY,
    "user_id": Field(TEXT),
    "created_at": Field(TEXT),
    "deleted": Field(FLAG),
    "deleted_at": Field(TEXT_OR_NULL),
    "id": Field(NUMBER),
    "updated_at": Field(TEXT_OR_NULL),
}
_MADE = {**KEY, "user_id": Field(TEXT), "private_key": Field(TEXT, until=91, always=False)}
LIST = many("keypairs", {"keypair": Field(plain(KEY))}, paged=35)
SHOW = one("keypair", _SHOWN)
CREATE = one("keypair", _MADE)
