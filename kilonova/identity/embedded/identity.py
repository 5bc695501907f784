"""Embedded identity: who a token belongs to, worked out from the database and remembered until something changes."""

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from kilonova.common.clock import SYSTEM, Clock
from kilonova.common.context import Context
from kilonova.common.errors import NotFound, Unauthorized, Unavailable
from kilonova.common.secret import Secret
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.sql import insert
from kilonova.db.versions import ensure
from kilonova.identity.embedded import catalog as catalogs
from kilonova.identity.embedded import schema as s
from kilonova.identity.embedded import store
from kilonova.identity.embedded.passwords import PasswordCheck
from kilonova.identity.embedded.records import projects, users
from kilonova.identity.embedded.standing import SERVICE_USER, Standing, evaluate
from kilonova.identity.embedded.tokens import REQUIRES_AUTH, KeyRing, Payload, new_audit_id
from kilonova.identity.interface import Project, User

T = TypeVar("T")
LIFE_S = 4 * 3600.0
REMEMBERED = 4096
LOOK_AGAIN_S = 0.5
RENEW_BEFORE_S = 900.0
DEFAULT_DOMAIN = "default"
_FIRST = insert(s.changes)


class EmbeddedIdentity:
    """Implements ``kilonova.identity.interface.Identity`` on one database and one directory of keys.

    database: a file of its own. Its schema is made here; it holds nothing but identity.
    A change made in this process counts from its commit on; one made by another process after at most 0.5 s.
    catalog: (type, name, url) of the services that this cloud offers.
    """

    def __init__(
        self,
        database: Database,
        key_dir: Path,
        clock: Clock = SYSTEM,
        catalog: Iterable[tuple[str, str, str]] = (),
        life_s: float = LIFE_S,
    ) -> None:
        ensure(database, s.metadata)
        self.db = database
        self.clock = clock
        self.life_s = life_s
        self.keys = KeyRing(key_dir, clock, life_s)
        self.passwords = PasswordCheck(clock)
        self.offers = catalogs.offers(catalog)
        self._cache: dict[bytes, Standing] = {}
        self._lock = threading.Lock()
        self._number = -1
        self._looked_at = float("-inf")
        self._own_token = Secret("")
        if database.read(lambda tx: tx.one(store.NUMBER)) is None:
            database.write(self._start_counting)

    @staticmethod
    def _start_counting(tx: Tx) -> None:
        if tx.one(store.NUMBER) is None:
            tx.run(_FIRST, id=1, number=1)

    def set_catalog(self, entries: Iterable[tuple[str, str, str]]) -> None:
        """Say what this cloud offers, once its public URL is known."""
        self.offers = catalogs.offers(entries)

    # -- changes ----------------------------------------------------------------------------------------------------

    def write(self, fn: Callable[[Tx], T]) -> T:
        """Run ``fn`` in a write transaction; every token is looked at again after it."""

        def work(tx: Tx) -> T:
            result = fn(tx)
            store.bump(tx)
            number = store.number(tx)
            tx.after_commit(lambda: self._learn(number))
            return result

        return self.db.write(work)

    def read(self, fn: Callable[[Tx], T]) -> T:
        """Run ``fn`` on one snapshot."""
        return self.db.read(fn)

    def _learn(self, number: int) -> None:
        with self._lock:
            self._number = max(self._number, number)

    def _current(self) -> int:
        now = self.clock.monotonic()
        if now - self._looked_at > LOOK_AGAIN_S:
            self._looked_at = now
            self._learn(self.db.read(store.number))
        return self._number

    # -- tokens -----------------------------------------------------------------------------------------------------

    def standing(self, token: str | None) -> Standing:
        """Return what ``token`` stands for now. Raises Unauthorized."""
        if not token:
            raise Unauthorized(REQUIRES_AUTH)
        now = self.clock.now()
        key = hashlib.blake2b(token.encode("utf-8", "replace"), digest_size=16).digest()
        found = self._cache.get(key)
        if found is not None and found.number == self._current() and found.payload.expires_at > now:
            return found
        payload = self.keys.open(token) if found is None else found.payload
        try:
            fresh = self.db.read(lambda tx: evaluate(tx, payload, now))
        except Unauthorized:
            with self._lock:
                self._cache.pop(key, None)
            raise
        self._keep(key, fresh)
        return fresh

    def _keep(self, key: bytes, standing: Standing) -> None:
        with self._lock:
            self._number = max(self._number, standing.number)
            self._cache.pop(key, None)
            while len(self._cache) >= REMEMBERED:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = standing

    def authenticate(
        self, token: str | None, service_token: str | None, request_id: str
    ) -> Context:
        """See Identity."""
        ctx = self.standing(token).context
        if service_token and "service" in self.standing(service_token).context.roles:
            return msgspec.structs.replace(ctx, request_id=request_id, is_service=True)
        return msgspec.structs.replace(ctx, request_id=request_id)

    def issue(
        self,
        tx: Tx,
        user: Row,
        methods: tuple[str, ...],
        scope_kind: str,
        scope: Row | None,
        parent: Payload | None = None,
        credential: Row | None = None,
    ) -> Standing:
        """Return the standing of a new token; nothing is stored.

        A token made from another dies with it. Raises Unauthorized when the user holds no role on the scope.
        """
        now = self.clock.now()
        expires = parent.expires_at if parent else now + self.life_s
        if credential is not None and credential["expires_at"] is not None:
            expires = min(expires, credential["expires_at"])
        payload = Payload(
            methods=methods,
            user_id=user["id"],
            user_generation=user["generation"],
            scope_kind=scope_kind,
            scope_id=scope["id"] if scope is not None else ("all" if scope_kind else ""),
            scope_generation=scope["generation"] if scope is not None else 0,
            issued_at=float(int(now)),
            expires_at=float(int(expires)),
            audit_ids=(new_audit_id(), *((parent.audit_ids[0],) if parent else ())),
            credential_id=credential["id"] if credential is not None else None,
        )
        return evaluate(tx, payload, now)

    def seal(self, standing: Standing) -> str:
        """Return the token itself, and remember what it stands for."""
        token = self.keys.seal(standing.payload)
        self._keep(hashlib.blake2b(token.encode(), digest_size=16).digest(), standing)
        return token

    def revoke(self, standing: Standing) -> None:
        """End a token now."""
        p = standing.payload
        self.write(lambda tx: store.revoke(tx, p.audit_ids[0], p.expires_at, self.clock.now()))

    # -- for the rest of the cloud ------------------------------------------------------------------------------------

    def project_exists(self, project_id: str) -> bool:
        """See Identity."""
        return self.db.read(lambda tx: projects.find(tx, project_id)) is not None

    def get_project(self, project_id: str) -> Project:
        """See Identity."""
        row = self.db.read(lambda tx: projects.get(tx, project_id))
        return Project(
            id=row["id"],
            name=row["name"],
            domain_id=row["domain_id"],
            enabled=bool(row["enabled"]),
        )

    def get_user(self, user_id: str) -> User:
        """See Identity."""
        row = self.db.read(lambda tx: users.get(tx, user_id))
        return User(
            id=row["id"],
            name=row["name"],
            domain_id=row["domain_id"],
            enabled=bool(row["enabled"]),
        )

    def service_token(self) -> Secret:
        """See Identity."""
        kept = self._own_token
        if kept:
            try:
                left_s = self.standing(kept.reveal()).payload.expires_at - self.clock.now()
            except Unauthorized:
                left_s = 0.0
            if left_s > min(RENEW_BEFORE_S, self.life_s / 2):
                return kept
        try:
            standing = self.db.read(self._own_standing)
        except Unauthorized as exc:
            raise Unavailable("The cloud's own user cannot log in.") from exc
        self._own_token = Secret(self.seal(standing))
        return self._own_token

    def _own_standing(self, tx: Tx) -> Standing:
        user = users.find(tx, SERVICE_USER)
        project = projects.find_named(tx, "service", DEFAULT_DOMAIN)
        if user is None or project is None:
            raise Unavailable("Identity was not seeded: there is no service user or project.")
        return self.issue(tx, user, ("password",), "project", project)

    def endpoint(self, service_type: str, interface: str = "internal") -> str:
        """See Identity."""
        for e in self.catalog(None, ""):
            if e["type"] == service_type:
                for one in e["endpoints"]:
                    if one["interface"] == interface:
                        return str(one["url"])
        raise NotFound(f"The catalog has no {interface} endpoint of type {service_type}.")

    def catalog(self, project_id: str | None, user_id: str) -> list[catalogs.Json]:
        """Return the catalog as a token of this project and user shows it."""
        both = self.db.read(
            lambda tx: (
                catalogs.all_services(tx, self.offers),
                catalogs.all_endpoints(tx, self.offers),
            )
        )
        return catalogs.build(*both, project_id, user_id)
