"""The bus between processes: core NATS behind the same interface. An asyncio island on a thread of its own.

It promises no more than the one in memory. While the server is away publications are dropped, and the connection is
tried again for ever, 0.1 to 2 s apart; a connection that fell silent is noticed within 15 s. What was subscribed is
subscribed again at each new connection. Messages larger than the server takes are dropped with an error in the log.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import functools
import math
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from kilonova.bus.credentials import Credentials
from kilonova.bus.delivery import BACKLOG, Call, Delivery, Taker
from kilonova.bus.interface import Handler, NobodyListens
from kilonova.common.errors import Unavailable
from kilonova.common.log import get_logger

log = get_logger(__name__)
CONNECT_S = 5
PING_S, PINGS = 5, 2
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 2.0
CLOSE_S = 5.0
SILENCES = 100
"""So many times without a connection are remembered."""
_FAULTS = (OSError, ValueError, TimeoutError, nats.errors.Error, ssl.SSLError)

Act = Callable[[Client], Awaitable[None]]


@dataclass(frozen=True)
class Address:
    """Where the server is and how we show who we are. name: of this client in the server's lists, and of its inbox.

    servers: nats:// or tls:// URLs, tried in turn. ca: PEM file of whom we trust; needed for tls.
    """

    servers: tuple[str, ...]
    name: str = "kilonova"
    credentials: Path | None = None
    ca: Path | None = None


class NatsBus:
    """One connection of a process. workers: threads that run handlers."""

    def __init__(self, address: Address, workers: int = 4) -> None:
        self._address = address
        self._credentials = (
            Credentials.read(address.credentials) if address.credentials is not None else None
        )
        self._tls = None if address.ca is None else ssl.create_default_context(cafile=address.ca)
        self._delivery = Delivery(workers)
        self._lock = threading.Lock()
        self._takers: dict[Taker, NatsSubscription | None] = {}
        self._out: collections.deque[Act] = collections.deque(maxlen=BACKLOG)
        self._awake = False
        self._closed = False
        self.connected = threading.Event()
        self._silences: collections.deque[list[float]] = collections.deque(
            [[time.monotonic(), math.inf]], maxlen=SILENCES
        )
        self.dropped = 0
        self.connections = 0
        self._max_bytes = 1 << 20
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._gone = asyncio.Event()
        self._trying: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._island, name="bus-nats", daemon=True)
        self._thread.start()

    # -- the interface

    def publish(self, subject: str, body: bytes) -> None:
        """Line a message up for sending; while the server is away it is dropped."""
        if not self.connected.is_set():
            self.dropped += 1
        elif len(body) > self._max_bytes:
            self.dropped += 1
            log.error(
                "a message is too large for the bus", extra={"subject": subject, "bytes": len(body)}
            )
        else:
            self._line_up(functools.partial(_publish, subject, body, ""))

    def subscribe(self, subject: str, handler: Handler, queue: str | None = None) -> Taker:
        """Call ``handler`` on a bus thread for each message, one at a time; ``*`` stands for one word.

        Returns when the server knows it, so that what others say from now on arrives; at once while it is away.
        """
        taker = Taker(subject, handler, queue, self._forget)
        with self._lock:
            if self._closed:
                raise Unavailable("The bus is closed.")
            self._takers[taker] = None
        known = threading.Event()
        self._line_up(functools.partial(self._begin_now, taker, known))
        if self.connected.is_set():
            known.wait(CONNECT_S)
        return taker

    def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        """Ask one subscriber; a server that is away is waited for within the same time."""
        end = time.monotonic() + timeout_s
        if self._closed or not self.connected.wait(timeout_s):
            raise NobodyListens("The bus is away.", subject=subject)
        if len(body) > self._max_bytes:
            raise NobodyListens("The question is too long.", subject=subject, bytes=len(body))
        reply: concurrent.futures.Future[bytes | None] = concurrent.futures.Future()
        left = max(0.0, end - time.monotonic())
        self._line_up(functools.partial(self._ask, subject, body, left, reply))
        try:
            found = reply.result(left + 1.0)
        except concurrent.futures.TimeoutError:
            found = None
        if found is None:
            raise NobodyListens("Nobody answered in time.", subject=subject, timeout_s=timeout_s)
        return found

    def deaf_s(self, last_s: float) -> float:
        """Return for how many of the last ``last_s`` seconds there was no connection."""
        now = time.monotonic()
        parts = ((max(began, now - last_s), min(ended, now)) for began, ended in [*self._silences])
        return sum(max(0.0, ended - began) for began, ended in parts)

    def close(self) -> None:
        """Send what is lined up, deliver nothing more; handlers that run are waited for. Safe to repeat."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._loop.call_soon_threadsafe(self._end_island)
        self._thread.join(CLOSE_S * 2)
        self._delivery.close()

    # -- on any thread

    def _line_up(self, act: Act) -> None:
        self._out.append(act)
        if not self._awake:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the island is closed
                self._loop.call_soon_threadsafe(self._wake.set)

    def _forget(self, taker: Taker) -> None:
        with self._lock:
            found = self._takers.pop(taker, None)
        if found is not None:
            self._line_up(functools.partial(_end, found))

    def _answer(self, to: str, body: bytes | None) -> None:
        if body is None or not self.connected.is_set():
            return
        if len(body) > self._max_bytes:
            log.error("a reply is too large for the bus", extra={"bytes": len(body)})
            return
        self._line_up(functools.partial(_publish, to, body, ""))

    # -- on the island

    def _island(self) -> None:
        try:
            while not self._closed:
                self._live()
        finally:
            self._loop.close()

    def _live(self) -> None:
        """Stay connected until the end. What the client's library did not foresee costs a connection, never the bus."""
        try:
            self._loop.run_until_complete(self._stay_connected())
        except Exception:
            log.exception("the client of the bus failed; it connects anew")
            time.sleep(FIRST_RETRY_S)

    async def _stay_connected(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._closed:
            client = Client()
            try:
                self._trying = self._loop.create_task(self._connect(client))
                await asyncio.wait_for(self._trying, CONNECT_S * 2)
            except asyncio.CancelledError:
                await _shut(client)
                break
            except _FAULTS as exc:
                log.info("no connection to the bus", extra={"why": str(exc) or repr(exc)})
                await _shut(client)
                with contextlib.suppress(TimeoutError):
                    wait_s = retry_s * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
                    await asyncio.wait_for(self._gone.wait(), wait_s)
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            await self._use(client)

    def _end_island(self) -> None:
        self._gone.set()
        if self._trying is not None:
            self._trying.cancel()

    async def _connect(self, client: Client) -> None:
        self._gone.clear()
        mine = self._credentials
        name = self._address.name
        await client.connect(
            servers=list(self._address.servers),
            name=name,
            inbox_prefix=f"_INBOX.{name}",
            error_cb=_told,
            closed_cb=self._went,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_S,
            ping_interval=PING_S,
            max_outstanding_pings=PINGS,
            tls=self._tls,
            signature_cb=mine.answer if mine is not None else None,
            user_jwt_cb=mine.token.encode if mine is not None else None,
            skip_subject_validation=True,
        )

    async def _went(self) -> None:
        self._gone.set()

    async def _use(self, client: Client) -> None:
        """Subscribe what is subscribed, then send what is lined up until the connection ends."""
        self._max_bytes = client.max_payload
        self._out.clear()
        with self._lock:
            takers = list(self._takers)
        sender = None
        try:
            for taker in takers:
                await self._begin(taker, client)
            await client.flush(CONNECT_S)  # connected means: the server has the subscriptions
            self.connections += 1
            self._silences[-1][1] = time.monotonic()
            self.connected.set()
            log.info("connected to the bus", extra={"takers": len(takers)})
            sender = self._loop.create_task(self._send(client))
            await self._gone.wait()
        except _FAULTS as exc:
            log.info("the connection to the bus ended", extra={"why": str(exc)})
        finally:
            if self.connected.is_set():
                self._silences.append([time.monotonic(), math.inf])
            self.connected.clear()
            if sender is not None:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sender
            await self._leave(client)

    async def _leave(self, client: Client) -> None:
        """Send what is lined up if we go of ourselves; then close."""
        with contextlib.suppress(*_FAULTS):
            if self._closed and client.is_connected:
                await self._send_lined_up(client)
                await client.flush(int(CLOSE_S))
        await _shut(client)

    async def _send(self, client: Client) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._awake = False
                await self._send_lined_up(client)
        except _FAULTS as exc:
            log.info("sending to the bus failed", extra={"why": str(exc)})
            self._gone.set()

    async def _send_lined_up(self, client: Client) -> None:
        while self._out:
            await self._out.popleft()(client)

    async def _begin(self, taker: Taker, client: Client) -> None:
        if taker.closed:
            return
        made = await client.subscribe(
            taker.subject, taker.group or "", functools.partial(self._arrived, taker)
        )
        with self._lock:
            if taker in self._takers:
                self._takers[taker] = made
                return
        await made.unsubscribe()

    async def _begin_now(self, taker: Taker, known: threading.Event, client: Client) -> None:
        await self._begin(taker, client)
        await client.flush(CONNECT_S)
        known.set()

    async def _arrived(self, taker: Taker, message: Msg) -> None:
        if message.reply:
            answer = functools.partial(self._answer, message.reply)
            self._delivery.call(Call(taker, message.subject, message.data, answer))
        else:
            self._delivery.put(taker, message.subject, message.data)

    async def _ask(
        self,
        subject: str,
        body: bytes,
        timeout_s: float,
        reply: concurrent.futures.Future[bytes | None],
        client: Client,
    ) -> None:
        task = self._loop.create_task(_wait_for_reply(client, subject, body, timeout_s, reply))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)


async def _wait_for_reply(
    client: Client,
    subject: str,
    body: bytes,
    timeout_s: float,
    reply: concurrent.futures.Future[bytes | None],
) -> None:
    found = None
    try:
        found = (await client.request(subject, body, timeout_s)).data
    except _FAULTS as exc:
        log.debug("no reply", extra={"subject": subject, "why": str(exc)})
    finally:
        if not reply.done():
            reply.set_result(found)


async def _shut(client: Client) -> None:
    with contextlib.suppress(*_FAULTS):
        await asyncio.wait_for(client.close(), 1.0)


async def _publish(subject: str, body: bytes, reply: str, client: Client) -> None:
    await client.publish(subject, body, reply)


async def _end(subscription: NatsSubscription, client: Client) -> None:
    with contextlib.suppress(nats.errors.Error):  # of a connection that is no more
        await subscription.unsubscribe()


async def _told(exc: Exception) -> None:
    log.info("the bus said", extra={"why": str(exc) or repr(exc)})
