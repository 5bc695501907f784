"""Events on a message queue, as who listened to a Nova expects them (NOTE-10): oslo.messaging on both sides."""

import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import ManualClock
from kilonova.common.config import BadConfig
from kilonova.common.secret import Secret
from kilonova.operations import webhooks
from kilonova.operations.webhooks import QUEUE, Delivery, Webhook
from tests.functional.test_hosts_of_several_conductors import Conductor
from tests.functional.test_webhooks import happen
from tests.rabbitmq import rabbitmq

with warnings.catch_warnings():  # eventlet, which it looks for, is deprecated
    warnings.simplefilter("ignore")
    import oslo_messaging
    from oslo_config import cfg

MEMORY = "kombu+memory:///"


class Listener:
    """What another project runs: a notification listener of oslo.messaging."""

    def __init__(self, url: str, topic: str) -> None:
        self.got: list[tuple[str, str, str, Any, dict[str, Any]]] = []
        self.heard = threading.Semaphore(0)
        conf = cfg.ConfigOpts()
        conf([], project="listener", default_config_files=[], default_config_dirs=[])
        self.transport = oslo_messaging.get_notification_transport(conf, url=url)
        self.server = oslo_messaging.get_notification_listener(
            self.transport, [oslo_messaging.Target(topic=topic)], [self], executor="threading"
        )
        self.server.start()

    def _take(self, level: str, publisher: str, event: str, payload: Any, about: Any) -> None:
        self.got.append((level, publisher, event, payload, about))
        self.heard.release()

    def info(self, ctxt: Any, publisher: str, event: str, payload: Any, about: Any) -> None:
        self._take("info", publisher, event, payload, about)

    def error(self, ctxt: Any, publisher: str, event: str, payload: Any, about: Any) -> None:
        self._take("error", publisher, event, payload, about)

    def wait(self, n: int) -> None:
        """Wait for n more messages."""
        for _ in range(n):
            assert self.heard.acquire(timeout=60)

    def close(self) -> None:
        self.server.stop()
        self.server.wait()
        self.transport.cleanup()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Conductor]:
    bus = MemoryBus(workers=1)
    made = Conductor(tmp_path, bus, ManualClock())
    yield made
    made.close()
    bus.close()


def told_in_order(one: Conductor, url: str) -> None:
    """Tell three events; demand that a listener hears them as Nova would have said them."""
    listener = Listener(url, "versioned_notifications")
    delivery = Delivery(one.services, Webhook("q", QUEUE, Secret(url)))
    try:
        delivery.step()
        happen(one, "h1", "h2", "h3")
        assert delivery.step() == webhooks.EVERY_S
        listener.wait(3)
        assert [payload["host"] for _, _, _, payload, _ in listener.got] == ["h1", "h2", "h3"]
        assert {(e[0], e[1], e[2]) for e in listener.got} == {
            ("info", "nova-compute", "service.update")
        }
        ids = [e[4]["message_id"] for e in listener.got]
        assert len(set(ids)) == 3 and all(e[4]["timestamp"].count(" ") == 1 for e in listener.got)
    finally:
        delivery.close()
        listener.close()


def test_a_listener_hears_events_in_order(one: Conductor) -> None:
    told_in_order(one, MEMORY)


def test_with_rabbitmq(one: Conductor) -> None:
    with rabbitmq() as url:
        told_in_order(one, url)


def test_a_queue_that_is_away_loses_nothing(one: Conductor, tmp_path: Path) -> None:
    """It is told again, with the same message_id, by whoever leads then."""
    away = Delivery(one.services, Webhook("q", QUEUE, Secret("rabbit://u:p@127.0.0.1:1/")))
    away.step()
    happen(one, "h1")
    assert away.step() == 1.0 and away.failures == 1
    away.close()
    listener = Listener(MEMORY, "other")
    back = Delivery(one.services, Webhook("q", QUEUE, Secret(MEMORY), topics=("other",)))
    assert back.step() == webhooks.EVERY_S
    listener.wait(1)
    assert listener.got[0][3]["host"] == "h1"
    back.close()
    listener.close()


def test_its_settings(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(MEMORY + "\n")
    file = tmp_path / "hooks.toml"
    text = f"[[webhook]]\nname = 'q'\nurl = 'oslo.messaging'\nsecret_file = '{tmp_path / 'url'}'\n"
    file.write_text(text + "topics = ['a', 'b']\n")
    (hook,) = webhooks.parse(file)
    assert (hook.secret.reveal(), hook.topics) == (MEMORY, ("a", "b"))
    with pytest.raises(BadConfig, match="cannot be used"):
        Delivery(None, Webhook("q", QUEUE, Secret("nonsense://x/")))  # type: ignore[arg-type]


def test_nothing_of_it_is_imported_unless_asked_for() -> None:
    """A cloud without such a receiver does not load the library."""
    asked = "import sys, json, kilonova.operations.webhooks, kilonova.server.cloud\n"
    asked += "print(json.dumps([m for m in sys.modules if m.startswith(('oslo_', 'kombu'))]))"
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=60
    )
    assert [m for m in json.loads(done.stdout) if not m.startswith("oslo_utils")] == []
