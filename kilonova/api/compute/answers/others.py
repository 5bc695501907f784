"""What the API answers about itself, and to the services beside it."""

from kilonova.http.answer import LINKS, NUMBER, OBJECT, TEXT, Field, Json, many, one

_VERSION = {
    "id": Field(TEXT),
    "status": Field(TEXT),
    "version": Field(TEXT),
    "min_version": Field(TEXT),
    "updated": Field(TEXT),
    "links": Field(LINKS),
}
_MEDIA: Json = {"type": "array", "items": OBJECT}
VERSIONS = many("versions", _VERSION)
VERSION = one("version", {**_VERSION, "media-types": Field(_MEDIA)})

_EXTENSION = {
    **{n: Field(TEXT) for n in ("alias", "name", "description", "namespace", "updated")},
    "links": Field(LINKS),
}
EXTENSIONS = many("extensions", _EXTENSION)
EXTENSION = one("extension", _EXTENSION)

_EVENT = {
    "name": Field(TEXT),
    "server_uuid": Field(TEXT),
    "status": Field(TEXT),
    "tag": Field(TEXT, always=False),
    "code": Field(NUMBER),
}
EVENTS = many("events", _EVENT)
