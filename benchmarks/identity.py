"""What identity costs: CPU per token validation, per token issued, per password check. Prints, asserts nothing."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kilonova.db.sqlite import SqliteDatabase
from kilonova.identity.embedded import passwords
from kilonova.identity.embedded.identity import EmbeddedIdentity
from kilonova.identity.embedded.login import login
from kilonova.identity.embedded.seed import seed


def cpu_us(times: int, fn: Callable[[], object]) -> float:
    """Return microseconds of CPU per call, the best of three rounds."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for _ in range(times):
            fn()
        best = min(best, (time.process_time() - began) / times * 1e6)
    return best


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as place:
        database = SqliteDatabase(Path(place) / "identity.db", "identity")
        identity = EmbeddedIdentity(
            database, Path(place) / "keys", catalog=[("compute", "nova", "http://x/compute/v2.1")]
        )
        seed(identity, {"admin": "a", "demo": "d"})
        who = {"name": "demo", "domain": {"id": "default"}, "password": "d"}
        scope = {"project": {"name": "demo", "domain": {"id": "default"}}}
        auth = {"identity": {"methods": ["password"], "password": {"user": who}}, "scope": scope}
        token = identity.seal(login(identity, auth))
        again = {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": scope}
        service = identity.service_token().reveal()

        def miss() -> None:
            identity._cache.clear()
            identity.authenticate(token, None, "req")

        def changed() -> None:
            identity._learn(identity._number + 1)
            identity.authenticate(token, None, "req")
            identity._number -= 1

        def wrong() -> None:
            try:
                identity.keys.open("gAAAAA" + "A" * 200)
            except Exception:  # noqa: BLE001
                return

        stored = passwords.hash_secret("d")
        for name, times, fn in (
            ("validate, seen before", 20000, lambda: identity.authenticate(token, None, "req")),
            (
                "validate with a service token",
                20000,
                lambda: identity.authenticate(token, service, "req"),
            ),
            ("validate, never seen", 500, miss),
            ("validate, first after a change", 500, changed),
            ("refuse a forged token", 500, wrong),
            ("issue from a token", 300, lambda: identity.seal(login(identity, again))),
            ("check a password (scrypt)", 5, lambda: passwords.matches("d", stored)),
            ("issue from a password", 5, lambda: identity.seal(login(identity, auth))),
        ):
            print(f"{name:32} {cpu_us(times, fn):12.1f} us CPU")
        print(f"{'length of a project token':32} {len(token):12} characters")
        database.close()


if __name__ == "__main__":
    main()
