"""Webhooks: events over HTTP, signed, in order, tried again, and left out after an hour (NOTE-10)."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import ManualClock
from kilonova.common.config import BadConfig
from kilonova.common.secret import Secret
from kilonova.db import notifications
from kilonova.operations import events, webhooks
from kilonova.operations.events import Wanted
from kilonova.operations.webhooks import Delivery, Webhook, signature
from tests.functional.test_hosts_of_several_conductors import Conductor

SECRET = Secret("0123456789abcdef")


class Receiver:
    """An HTTP server of this test's. answers: the status of each request to come; 200 after them."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?x=1"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def hosts(self) -> list[str]:
        return [json.loads(body)["payload"]["host"] for _, body in self.got]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def one(tmp_path: Path, clock: ManualClock) -> Iterator[Conductor]:
    bus = MemoryBus(workers=1)
    made = Conductor(tmp_path, bus, clock)
    yield made
    made.close()
    bus.close()


def happen(one: Conductor, *hosts: str, at: float = 1.0, where: str = "cell1") -> None:
    for host in hosts:
        text = json.dumps({"host": host})
        one.dbs[where].write(_told(host, text, at))


def _told(host: str, text: str, at: float) -> Any:
    return lambda tx: notifications.told(tx, "service.update", host, text, None, at)


def delivery(one: Conductor, url: str, *names: str) -> Delivery:
    made = Delivery(one.services, Webhook("a", url, SECRET, names))
    made.step()  # a new receiver is told what happens from now on
    return made


def test_events_come_signed_and_in_order(one: Conductor, receiver: Receiver) -> None:
    happen(one, "before")
    told = delivery(one, receiver.url)
    happen(one, "h1", "h2", "h3")
    told.step()
    assert receiver.hosts() == ["h1", "h2", "h3"]
    headers, body = receiver.got[0]
    at = int(headers["X-Kilonova-Timestamp"])
    assert headers["X-Kilonova-Signature"] == signature(SECRET, at, body)
    assert headers["X-Kilonova-Event"] == "service.update"
    assert json.loads(body)["id"] == headers["X-Kilonova-Delivery"]
    told.step()
    assert len(receiver.got) == 3


def test_one_that_fails_is_told_again_and_another_process_goes_on(
    one: Conductor, receiver: Receiver
) -> None:
    """At least once: what was taken is not told again, what was not is, by whoever leads then."""
    told = delivery(one, receiver.url)
    happen(one, "h1", "h2", "h3")
    receiver.answers = [200, 503, 500]
    pauses = [told.step(), told.step()]
    assert pauses == [1.0, 2.0]
    again = Delivery(one.services, told.hook)
    assert again.step() == webhooks.EVERY_S
    assert receiver.hosts() == ["h1", "h2", "h2", "h2", "h3"]


def test_what_nobody_takes_for_an_hour_is_left_out(
    one: Conductor, receiver: Receiver, clock: ManualClock
) -> None:
    told = delivery(one, receiver.url)
    happen(one, "bad", "good")
    receiver.answers = [400] * 3
    told.step()
    clock.advance(webhooks.GIVE_UP_S / 2)
    assert told.step() <= webhooks.LONGEST_PAUSE_S
    clock.advance(webhooks.GIVE_UP_S / 2 + 1)
    told.step()
    assert told.left_out == 1
    assert receiver.hosts() == ["bad", "bad", "bad", "good"]


def test_a_receiver_that_is_away_loses_nothing(one: Conductor, receiver: Receiver) -> None:
    told = delivery(one, receiver.url)
    url, receiver_port = receiver.url, receiver.server.server_port
    receiver.close()
    happen(one, "h1")
    assert told.step() == 1.0
    assert str(receiver_port) in url
    back = Receiver()
    later = Delivery(one.services, Webhook("a", back.url, SECRET))
    later.step()
    assert back.hosts() == ["h1"]
    back.close()


def test_a_place_is_good_whatever_the_times_say(one: Conductor) -> None:
    """NOTE-3: an event may be written later than one that is of an earlier moment."""
    place = events.end(one.services)
    happen(one, "a", at=10.0)
    happen(one, "b", at=9.0)
    happen(one, "w", at=9.5, where="global")
    wanted = Wanted(None, admin=True)
    found = events.read(one.services, dict(place), wanted)
    assert [e.body["payload"]["host"] for e in found] == ["w", "a", "b"]
    for n, event in enumerate(found):
        rest = events.read(one.services, events.parse(event.place), wanted)
        assert [e.place for e in rest] == [e.place for e in found[n + 1 :]]


def test_what_is_not_wanted_is_passed_over(one: Conductor) -> None:
    """NOTE-4: a reader need not come again and again to reach what it waits for."""
    happen(one, *(f"h{n}" for n in range(events.LIMIT * 2 + 5)))
    one.dbs["cell1"].write(
        lambda tx: notifications.told(tx, "service.delete", "last", "{}", None, 2.0)
    )
    place: dict[str, int] = {}
    found = events.read(one.services, place, Wanted(None, admin=True, names=("service.delete",)))
    assert [e.name for e in found] == ["service.delete"]
    assert events.parse(found[0].place) == place


def test_events_on_the_bus(one: Conductor) -> None:
    heard: list[str] = []
    done = threading.Event()

    def hear(subject: str, body: bytes) -> None:
        heard.append(subject)
        done.set()

    one.services.bus.subscribe("event.*.service.update", hear)
    told = delivery(one, webhooks.BUS, "service.*")
    happen(one, "h1")
    told.step()
    assert done.wait(30)
    assert heard == ["event.none.service.update"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("webhook = 1", "tables"),
        ("x = 1", "nothing else"),
        ("[[webhook]]\nurl = 'http://x/'", "needs name"),
        ("[[webhook]]\nname = 'a'\nurl = 'ftp://x/'", "url must be"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://x/'", "secret_file"),
        ("[[webhook]]\nname = 'a'\nurl = 'bus'\nnope = 1", "nope"),
        ("[[webhook]]\nname = 'a'\nurl = 'bus'\n[[webhook]]\nname = 'a'\nurl = 'bus'", "one name"),
        ("[[", "file"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(text: str, fault: str, tmp_path: Path) -> None:
    """SM-13"""
    path = tmp_path / "file.toml"
    path.write_text(text)
    with pytest.raises(BadConfig, match=fault) as caught:
        webhooks.parse(path)
    assert str(path) in caught.value.message


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("0123456789abcdef\n")
    path = tmp_path / "hooks.toml"
    path.write_text(
        f'[[webhook]]\nname = "a"\nurl = "https://x/y"\nsecret_file = "{tmp_path / "s"}"\n'
        'events = ["instance.*.end"]\nproject = "p"\n'
    )
    assert webhooks.parse(path) == (Webhook("a", "https://x/y", SECRET, ("instance.*.end",), "p"),)
    assert "0123" not in repr(webhooks.parse(path))
