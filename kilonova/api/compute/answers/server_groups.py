"""What the API answers about server groups."""

from kilonova.http.answer import NUMBER, OBJECT, TEXT, TEXTS, Field, many, one, plain

_GROUP = {
    "id": Field(TEXT),
    "name": Field(TEXT),
    "members": Field(TEXTS),
    "policies": Field(TEXTS, until=63),
    "metadata": Field(OBJECT, until=63),
    "policy": Field(TEXT, since=64),
    "rules": Field(plain({"max_server_per_host": Field(NUMBER, always=False)}), since=64),
    "project_id": Field(TEXT, since=13),
    "user_id": Field(TEXT, since=13),
}
LIST = many("server_groups", _GROUP)
SHOW = one("server_group", _GROUP)
