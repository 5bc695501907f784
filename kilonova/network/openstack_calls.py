"""Requests to a real Neutron through openstacksdk: one call, a list over all pages, what is found or not."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kilonova.common.errors import NotFound
from kilonova.network.openstack_shapes import Json, error_of, path_id

Connect = Callable[[str | None], Any]
"""Project id -> an openstack.connection.Connection of the service user in that project; None: in its own."""
MOST = 50  # ids in one query: they travel in the URL
PAGES = 10_000


class Calls:
    """Safe from any thread as far as the connections are."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._aliases: frozenset[str] = frozenset()

    def call(
        self, method: str, path: str, body: Json | None = None, project: str | None = None
    ) -> Any:
        """Make one request; return its JSON. Raises what ``error_of`` makes of a refusal."""
        adapter = self._connect(project).network
        answer = adapter.request(path, method, json=body, raise_exc=False)
        if answer.status_code < 300:
            return answer.json() if answer.content else {}
        raise error_of(answer.status_code, answer.text)

    def find(self, noun: str, one: str) -> Json | None:
        """Return one row by id, or None. noun: as in paths ("ports")."""
        try:
            found: Json = self.call("GET", f"/{noun}/{path_id(one)}")
        except NotFound:
            return None
        row: Json = next(iter(found.values()))
        return row

    def rows(
        self,
        noun: str,
        query: Iterable[tuple[str, str]] = (),
        project: str | None = None,
    ) -> list[Json]:
        """Return every row, all pages. noun: as in paths; query: pairs, a name may come more than once."""
        adapter = self._connect(project).network
        name = noun.replace("-", "_")
        found: list[Json] = []
        asked = [*query, ("limit", "500")]
        marker: list[tuple[str, str]] = []
        for _ in range(PAGES):
            answer = adapter.request(f"/{noun}", "GET", params=[*asked, *marker], raise_exc=False)
            if answer.status_code >= 300:
                raise error_of(answer.status_code, answer.text)
            body = answer.json()
            found += body[name]
            links = body.get(f"{name}_links") or ()
            if not body[name] or not any(link.get("rel") == "next" for link in links):
                break
            marker = [("marker", body[name][-1]["id"])]
        return found

    def among(
        self, noun: str, field: str, values: Iterable[str], *query: tuple[str, str]
    ) -> list[Json]:
        """Return every row whose field is one of ``values``."""
        wanted: Sequence[str] = sorted({v for v in values if v})
        found: list[Json] = []
        for at in range(0, len(wanted), MOST):
            found += self.rows(noun, [*((field, v) for v in wanted[at : at + MOST]), *query])
        return found

    def has(self, alias: str) -> bool:
        """Tell whether the service has an extension; asked once."""
        if not self._aliases:
            found = self.call("GET", "/extensions")["extensions"]
            self._aliases = frozenset(e["alias"] for e in found)
        return alias in self._aliases
