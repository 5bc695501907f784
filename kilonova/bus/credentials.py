"""Who may say what on NATS: keys, and tokens signed by the deployment's own authority (no list of users in the server).

The server knows one operator and trusts the account that the operator signed; the account signs a token per host and
per role, and each token carries its permissions. So a host joins without a change at the server.
source: NATS documentation, *JWTs* (claims version 2, algorithm ed25519-nkey) and *NKeys* (base32 with CRC-16).
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kilonova.common.errors import KilonovaError
from kilonova.common.secret import Secret

_SEED, OPERATOR, ACCOUNT, USER = 18 << 3, 14 << 3, 0, 20 << 3
_WORD = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_PARTS = re.compile(r"-+BEGIN ([A-Z ]+)-+\s+(\S+)\s+-+END \1-+")
REPLY_WITHIN_NS = 60 * 10**9
"""A host may answer a request at the address in it, once, so long."""


class BadCredentials(KilonovaError):
    """A key or a credentials file is not what it should be."""

    code = "bad_credentials"


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).rstrip(b"=").decode()


def _with_sum(raw: bytes) -> str:
    return _base32(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little"))


def _without_sum(text: str) -> bytes:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (ValueError, binascii.Error):
        raise BadCredentials("a key is not in base32") from None
    if len(raw) < 3 or binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little") != raw[-2:]:
        raise BadCredentials("a key's check sum is wrong")
    return raw[:-2]


class Key:
    """A key pair: an operator's, an account's or a user's."""

    def __init__(self, kind: int, private: Ed25519PrivateKey) -> None:
        self.kind = kind
        self._private = private
        public = private.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        self.public = _with_sum(bytes([kind]) + public)

    @staticmethod
    def make(kind: int) -> "Key":
        """Make a new one."""
        return Key(kind, Ed25519PrivateKey.generate())

    @staticmethod
    def of_seed(seed: str) -> "Key":
        """Read one from its seed. Raises BadCredentials."""
        raw = _without_sum(seed.strip())
        if len(raw) != 34 or raw[0] & 0xF8 != _SEED:
            raise BadCredentials("a seed is not one")
        kind = ((raw[0] & 7) << 5) | (raw[1] >> 3)
        return Key(kind, Ed25519PrivateKey.from_private_bytes(raw[2:]))

    @property
    def seed(self) -> Secret:
        """Return the private half as text, to be kept in a file of mode 0600."""
        raw = self._private.private_bytes(
            serialization.Encoding.Raw,
            serialization.PrivateFormat.Raw,
            serialization.NoEncryption(),
        )
        head = bytes([_SEED | self.kind >> 5, (self.kind & 31) << 3])
        return Secret(_with_sum(head + raw))

    def sign(self, text: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._private.sign(text)

    def token(self, name: str, subject: str, claims: Mapping[str, Any], now: float) -> str:
        """Return claims about ``subject`` (a public key), signed by this key. now: Unix seconds."""
        body: dict[str, Any] = {
            "iat": int(now),
            "iss": self.public,
            "name": name,
            "nats": {**claims, "version": 2},
            "sub": subject,
        }
        text = json.dumps(body, sort_keys=True).encode()
        body["jti"] = _base32(hashlib.new("sha512_256", text).digest())
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, body)
        signed = ".".join(_base64url(json.dumps(p).encode()) for p in parts)
        return f"{signed}.{_base64url(self.sign(signed.encode()))}"


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class Permissions:
    """Subjects one may publish and subscribe. replies: whether one may answer the requests that one receives."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    replies: bool = False


EVERYTHING = Permissions((">",), (">",))
"""Of the roles of the control plane."""
CONSOLE = Permissions(("console.admit",), ("_INBOX.console.>",))
"""Of a console proxy: it faces browsers, so it may ask what a token stands for, and hear nothing of others."""
ROLES: Mapping[str, Permissions] = {
    "api": EVERYTHING,
    "conductor": EVERYTHING,
    "console": CONSOLE,
}


def of_host(host: str) -> Permissions:
    """Return what a host may say: its own reports and answers, and questions about itself. Raises BadCredentials."""
    check_word(host)
    if host in ROLES:  # their inboxes are named after them
        raise BadCredentials(f"a host cannot be called {host}: a role is")
    return Permissions(
        publish=(
            f"report.{host}",
            f"answer.{host}.>",
            f"network.report.{host}",
            f"network.state.{host}",
            f"volume.report.{host}",
            f"volume.state.{host}",
        ),
        subscribe=(f"agent.{host}.*", f"_INBOX.{host}.>"),
        replies=True,
    )


def check_word(name: str) -> None:
    """Raise BadCredentials when a name cannot be one word of a subject."""
    if not _WORD.match(name):
        raise BadCredentials(
            f"{name!r} cannot be a host's name on NATS: letters, digits, '-' and '_', no dots."
        )


@dataclass(frozen=True)
class Authority:
    """What signs: the account's key. The server trusts ``account_token`` because ``operator_token`` stands behind.

    revoked: name -> Unix seconds; credentials of that name that were signed until then are good no more.
    """

    account: Key
    revoked: Mapping[str, int] = field(default_factory=dict)

    def key_of(self, name: str) -> Key:
        """Return the key of the credentials of a name: always the same, so that who knows the name can revoke them."""
        secret = self.account.seed.reveal().encode()
        raw = hmac.digest(secret, b"credentials of " + name.encode(), "sha512")[:32]
        return Key(USER, Ed25519PrivateKey.from_private_bytes(raw))

    @property
    def operator(self) -> Key:
        """Return the operator's key."""
        return self._derived(OPERATOR, b"operator")

    @property
    def system(self) -> Key:
        """Return the key of the system account."""
        return self._derived(ACCOUNT, b"system account")

    def _derived(self, kind: int, what: bytes) -> Key:
        raw = hmac.digest(self.account.seed.reveal().encode(), what, "sha512")[:32]
        return Key(kind, Ed25519PrivateKey.from_private_bytes(raw))

    def of_the_system(self, now: float) -> Secret:
        """Return the text of credentials in the system account, good for a minute: to tell servers of changes."""
        user = Key.make(USER)
        claims: dict[str, Any] = {
            "type": "user",
            "pub": {"allow": ["$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.>"]},
            "sub": {"allow": ["_INBOX.>"]},
            "subs": -1,
            "data": -1,
            "payload": -1,
        }
        return _file(self.system.token("kilonova", user.public, claims, now), user)

    def credentials(self, name: str, permissions: Permissions, now: float) -> Secret:
        """Return the text of a new credentials file for one host or role. now: Unix seconds."""
        user = self.key_of(name)
        claims: dict[str, Any] = {
            "type": "user",
            "pub": {"allow": list(permissions.publish)},
            "sub": {"allow": list(permissions.subscribe)},
            "subs": -1,
            "data": -1,
            "payload": -1,
        }
        if permissions.replies:
            claims["resp"] = {"max": 1, "ttl": REPLY_WITHIN_NS}
        return _file(self.account.token(name, user.public, claims, now), user)


def _file(token: str, user: Key) -> Secret:
    """Return the text of a credentials file."""
    return Secret(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.reveal()}\n------END USER NKEY SEED------\n"
    )


@dataclass(frozen=True)
class Trust:
    """What a server's configuration says of whom it believes: tokens, and accounts by their public keys.

    system: the account in which the server is told of changed accounts while it runs.
    """

    operator: str
    account: tuple[str, str]
    system: tuple[str, str]


def trust_of(authority: Authority, now: float) -> Trust:
    """Return whom a server is to believe. The operator stays the same, so that a server need not be started again."""
    operator, account, system = authority.operator, authority.account, authority.system
    claims = {"type": "operator", "system_account": system.public}
    limits = {"type": "account", "limits": _limits()}
    return Trust(
        operator.token("kilonova", operator.public, claims, 0.0),
        (account.public, account_token(authority, now)),
        (system.public, operator.token("system", system.public, limits, 0.0)),
    )


def account_token(authority: Authority, now: float) -> str:
    """Return the account's token, with the credentials that are good no more."""
    claims: dict[str, Any] = {"type": "account", "limits": _limits()}
    if authority.revoked:
        claims["revocations"] = {
            authority.key_of(name).public: at for name, at in authority.revoked.items()
        }
    return authority.operator.token("kilonova", authority.account.public, claims, now)


def _limits() -> dict[str, Any]:
    names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    return {**dict.fromkeys(names, -1), "wildcards": True}


@dataclass(frozen=True)
class Credentials:
    """What a client shows: its token and its key."""

    token: str
    key: Key

    @staticmethod
    def read(path: Path) -> "Credentials":
        """Read a credentials file. Raises BadCredentials naming it."""
        try:
            parts = dict(_PARTS.findall(path.read_text()))
        except (OSError, UnicodeDecodeError) as exc:
            raise BadCredentials(f"the credentials {path} cannot be read") from exc
        try:
            return Credentials(parts["NATS USER JWT"], Key.of_seed(parts["USER NKEY SEED"]))
        except (KeyError, BadCredentials) as exc:
            raise BadCredentials(f"{path} is no credentials file of NATS") from exc

    def answer(self, nonce: str) -> bytes:
        """Return the server's nonce signed, in base64."""
        return base64.b64encode(self.key.sign(nonce.encode()))
