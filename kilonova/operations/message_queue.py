"""Events on a message queue, as Nova's notifications go there: oslo.messaging, version 2.0, ``<topic>.<priority>``.

Whoever listened to a Nova (ceilometer, watcher, masakari) hears this cloud. The extra ``[messaging]`` has the library;
it is imported when a receiver asks for it and never else.
source: oslo.messaging's notification guide and Nova's notification samples, field names alone.
"""

import importlib.util
import uuid
import warnings
from pathlib import Path
from typing import Any

from kilonova.common.config import BadConfig
from kilonova.common.errors import Unavailable
from kilonova.common.secret import Secret
from kilonova.operations.events import Event

TOPICS = ("versioned_notifications",)
_IDS = uuid.UUID("0b6a3c52-0a0e-4c58-9a55-6c1f3f6d7a10")


class MessageQueue:
    """A connection to the queue, made with the first message. For one thread at a time.

    url: ``rabbit://user:password@host:5672/``, as oslo.messaging has it. config: a file of oslo.config with more (TLS,
    quorum queues). Raises BadConfig when the library is not there, or cannot read them.
    """

    def __init__(
        self, url: Secret, topics: tuple[str, ...] = TOPICS, config: Path | None = None
    ) -> None:
        if importlib.util.find_spec("oslo_messaging") is None:
            raise BadConfig(
                "a message queue needs the package oslo.messaging: pip install 'kilonova[messaging]'"
            )
        with warnings.catch_warnings():  # that eventlet, which it looks for, is deprecated
            warnings.simplefilter("ignore")
            import oslo_messaging
            from amqp.exceptions import AMQPError
            from kombu.exceptions import KombuError
            from oslo_config import cfg

        self._topics = topics
        self._failures = (oslo_messaging.MessagingException, KombuError, AMQPError, OSError)
        self._target = oslo_messaging.Target
        conf = cfg.ConfigOpts()
        files = [] if config is None else [str(config)]
        try:
            conf([], project="kilonova", default_config_files=files, default_config_dirs=[])
            self._transport = oslo_messaging.get_notification_transport(conf, url=url.reveal())
        except (cfg.Error, oslo_messaging.MessagingException, ValueError) as exc:
            raise BadConfig(f"the message queue cannot be used: {type(exc).__name__}") from exc

    def send(self, event: Event) -> None:
        """Send one event to every topic; one that is sent again has the same message_id. Raises Unavailable.

        Nothing is tried again here: oslo.messaging's own Notifier would drop what it cannot send and only log it.
        """
        message = message_of(event)
        for topic in self._topics:
            target = self._target(topic=f"{topic}.{message['priority'].lower()}")
            try:
                self._transport._send_notification(target, {}, message, version=2.0, retry=0)
            except self._failures as exc:
                raise Unavailable(
                    f"The message queue did not take the event: {type(exc).__name__}."
                ) from exc

    def close(self) -> None:
        """Let go of the connection."""
        self._transport.cleanup()


def message_of(event: Event) -> dict[str, Any]:
    """Return what is sent: the keys that oslo.messaging's notifiers write."""
    return {
        **event.body,
        "message_id": str(uuid.uuid5(_IDS, event.place)),
        "timestamp": str(event.body["timestamp"]).replace("T", " ").rstrip("Z"),
    }
