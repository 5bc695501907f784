"""Webhooks: who is told of events by HTTP, signed; one after another, tried again for an hour, at least once.

How far each was told is in the global database, so whoever leads goes on from there. An event that nobody takes for an
hour is left out and logged; the events themselves are kept for seven days, so a receiver that is away fills no memory.
"""

import hashlib
import hmac
import http.client
import ssl
import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kilonova.common.config import BadConfig, typed
from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.common.log import get_logger
from kilonova.common.secret import Secret
from kilonova.db import notifications
from kilonova.operations import events, message_queue
from kilonova.operations.events import Event, Wanted
from kilonova.operations.message_queue import MessageQueue
from kilonova.operations.services import Services

log = get_logger(__name__)
BUS, QUEUE = "bus", "oslo.messaging"
EVERY_S = 1.0
TIMEOUT_S = 10.0
LONGEST_PAUSE_S = 60.0
GIVE_UP_S = 3600.0
MOST = 16
BATCH = 50


@dataclass(frozen=True)
class Webhook:
    """One receiver. url: http, https; ``bus``: each event on the subject ``event.<project>.<name>`` of the bus.

    ``oslo.messaging``: on a message queue, whose transport URL is the secret; topics and config are of that.
    """

    name: str
    url: str
    secret: Secret
    events: tuple[str, ...] = ()
    project: str | None = None
    topics: tuple[str, ...] = message_queue.TOPICS
    config: Path | None = None

    @property
    def wanted(self) -> Wanted:
        """What it is told: as an administrator, hosts too."""
        return Wanted(self.project, admin=True, names=self.events)


def parse(path: Path) -> tuple[Webhook, ...]:
    """Read the receivers of a file. Raises BadConfig that names file, key and fault."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError as exc:
        raise BadConfig(f"{path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BadConfig(f"{path}: {exc}") from exc
    tables = content.get("webhook", [])
    if set(content) - {"webhook"} or not isinstance(tables, list):
        raise BadConfig(f"{path}: it holds [[webhook]] tables and nothing else")
    if len(tables) > MOST:
        raise BadConfig(f"{path}: at most {MOST} webhooks")
    hooks = tuple(_parse(str(path), t) for t in tables)
    if len({h.name for h in hooks}) != len(hooks):
        raise BadConfig(f"{path}: two webhooks have one name")
    return hooks


def _parse(where: str, table: Mapping[str, Any]) -> Webhook:
    known: dict[str, Any] = dict.fromkeys(
        ("name", "url", "secret_file", "project", "config_file"), str
    )
    known |= dict.fromkeys(("events", "topics"), tuple[str, ...])
    for key in table:
        if key not in known:
            raise BadConfig(f"{where}: {key} is no setting of a webhook")
    read = {k: typed(where, k, v, known[k]) for k, v in table.items()}
    for key in ("name", "url"):
        if not read.get(key):
            raise BadConfig(f"{where}: a webhook needs {key}")
    parts = urlsplit(read["url"])
    if read["url"] not in (BUS, QUEUE) and (
        parts.scheme not in ("http", "https") or not parts.hostname
    ):
        raise BadConfig(f"{where}: url must be http, https, {BUS} or {QUEUE}, not {read['url']!r}")
    secret = ""
    if read["url"] != BUS:
        if "secret_file" not in read:
            raise BadConfig(f"{where}: a webhook needs secret_file")
        try:
            secret = Path(read["secret_file"]).read_text().strip()
        except OSError as exc:
            raise BadConfig(f"{where}: secret_file: {exc.strerror}") from exc
        if len(secret) < 16 and read["url"] != QUEUE:
            raise BadConfig(f"{where}: the secret in secret_file is shorter than 16 characters")
    file = read.get("config_file")
    return Webhook(
        read["name"],
        read["url"],
        Secret(secret),
        read.get("events", ()),
        read.get("project"),
        read.get("topics", message_queue.TOPICS),
        None if file is None else Path(file),
    )


def signature(secret: Secret, timestamp: int, body: bytes) -> str:
    """Return what ``X-Kilonova-Signature`` holds: HMAC-SHA-256 of "<timestamp>.<body>"."""
    text = b"%d." % timestamp + body
    return "sha256=" + hmac.new(secret.reveal().encode(), text, hashlib.sha256).hexdigest()


class Delivery:
    """Tells one receiver what it wants, from where it was. One thread at a time. Raises BadConfig, of a queue."""

    def __init__(self, services: Services, hook: Webhook) -> None:
        self._services = services
        self.hook = hook
        self._queue: MessageQueue | None = None
        if hook.url == QUEUE:
            self._queue = MessageQueue(hook.secret, hook.topics, hook.config)
        self.failures = 0
        self.left_out = 0
        self._failing_since: float | None = None

    def step(self) -> float:
        """Tell what there is; return after how many seconds to come again."""
        services = self._services
        kept = services.world.ask(lambda tx: notifications.place_of(tx, self.hook.name))
        place = events.end(services) if kept is None else events.parse(kept)
        found = events.read(services, place, self.hook.wanted, BATCH)
        for event in found:
            try:
                self._tell(event)
            except KilonovaError as exc:
                if not self._give_up(event, exc):
                    return self._pause()
            self.failures, self._failing_since = 0, None
            self._keep(event.place)
        if (text := events.text_of(place)) != kept:
            self._keep(text)
        return 0.0 if len(found) >= BATCH else EVERY_S

    def _keep(self, place: str) -> None:
        self._services.world.write(lambda tx: notifications.keep_place(tx, self.hook.name, place))

    def _pause(self) -> float:
        self.failures += 1
        return float(min(2 ** min(self.failures - 1, 10), LONGEST_PAUSE_S))

    def _give_up(self, event: Event, exc: KilonovaError) -> bool:
        """Tell whether an event was tried for so long that it is left out."""
        now = self._services.clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            log.warning("a webhook failed", extra={"webhook": self.hook.name, "why": exc.message})
        if now - self._failing_since < GIVE_UP_S:
            return False
        self.left_out += 1
        log.error(
            "a webhook did not take an event for an hour; it is left out",
            extra={"webhook": self.hook.name, "event": event.name, "place": event.place},
        )
        return True

    def close(self) -> None:
        """Let go of the receiver."""
        if self._queue is not None:
            self._queue.close()

    def _tell(self, event: Event) -> None:
        if self._queue is not None:
            self._queue.send(event)
            return
        body = msgspec.json.encode({"id": event.place, **event.body})
        if self.hook.url == BUS:
            subject = f"event.{event.project or 'none'}.{event.name}"
            self._services.bus.publish(subject, body)
            return
        at = int(self._services.now())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "kilonova",
            "X-Kilonova-Event": event.name,
            "X-Kilonova-Delivery": event.place,
            "X-Kilonova-Timestamp": str(at),
            "X-Kilonova-Signature": signature(self.hook.secret, at, body),
        }
        _post(self.hook.url, body, headers)


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Send it; Unavailable unless the answer is 2xx. No redirect is followed; certificates are checked."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    conn: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        conn = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    else:
        conn = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        conn.request("POST", target, body, dict(headers))
        answer = conn.getresponse()
        answer.read(64 * 1024)
    except (OSError, http.client.HTTPException) as exc:
        raise Unavailable(f"The receiver cannot be reached: {exc}") from exc
    finally:
        conn.close()
    if not 200 <= answer.status < 300:
        raise Unavailable(f"The receiver answered {answer.status}.")


class Webhooks:
    """Every receiver of this deployment, a thread each; only the conductor that leads tells them."""

    def __init__(self, services: Services, hooks: tuple[Webhook, ...]) -> None:
        self._services = services
        self._stop = threading.Event()
        self.deliveries = [Delivery(services, hook) for hook in hooks]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Tell them from now on, until ``close``."""
        for delivery in self.deliveries:
            name = f"webhook-{delivery.hook.name}"
            thread = threading.Thread(target=self._loop, args=(delivery.step,), name=name)
            thread.daemon = True
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Stop after what is being told now; safe to repeat."""
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5)
        for delivery in self.deliveries:
            delivery.close()

    def _loop(self, step: Callable[[], float]) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            pause = EVERY_S
            try:
                if self._services.leads():
                    pause = step()
            except KilonovaError as exc:
                log.warning("events could not be read", extra={"why": exc.message})
