"""/metrics for Prometheus, /healthz and /readyz; no token needed, nothing of a tenant is shown."""

from typing import Any

from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.http import errors as forms
from kilonova.http.policy import PUBLIC, Policy
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.service import Service
from kilonova.operations.services import Services
from kilonova.saga import journal

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one process. Cheap enough for every request; the library is imported with it."""

    def __init__(self, services: Services) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._services = services
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "kilonova_request_seconds",
            "Time to answer a request",
            ("service", "method", "path", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._steps = Counter(
            "kilonova_operation_steps_total",
            "Steps of operations by outcome; step '' is the operation's end",
            ("kind", "step", "outcome"),
            registry=self.registry,
        )
        self._hosts = Gauge("kilonova_hosts", "Hosts by state", ("state",), registry=self.registry)
        self._live = Gauge(
            "kilonova_operations_live",
            "Operations that have not ended",
            ("database",),
            registry=self.registry,
        )
        self._labels: dict[tuple[str, ...], Any] = {}

    def request(self, service: str, method: str, path: str, status: int, seconds: float) -> None:
        """Observe one request."""
        key = (service, method, path, str(status))
        child = self._labels.get(key)
        if child is None:
            child = self._labels[key] = self._requests.labels(*key)
        child.observe(seconds)

    def step(self, kind: str, step: str, outcome: str, seconds: float) -> None:
        """Count one try of a step."""
        key = (kind, step, outcome)
        child = self._labels.get(key)
        if child is None:
            child = self._labels[key] = self._steps.labels(*key)
        child.inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text form."""
        from prometheus_client import generate_latest

        hosts = self._services.hosts
        up = sum(1 for h in hosts.all() if hosts.is_up(h.host))
        self._hosts.labels("up").set(up)
        self._hosts.labels("down").set(len(hosts.all()) - up)
        for name, db in self._services.homes().items():
            self._live.labels(name).set(db.read(journal.waiting))
        out: bytes = generate_latest(self.registry)
        return out


def service(metrics: Metrics) -> Service:
    """Return the routes at the root of the port."""

    def show(req: Request) -> Response:
        """Give the metrics of this process."""
        return Response(
            body=metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return Service(
        name="health",
        mount="",
        routes=(
            Route("GET", "/metrics", show, PUBLIC),
            Route("GET", "/healthz", healthz, PUBLIC),
            Route("GET", "/readyz", readyz, PUBLIC),
            Route("GET", "/", root, PUBLIC),
        ),
        policy=Policy({}),
        render=forms.compute,
    )


def root(req: Request) -> Any:
    """Say what is mounted here."""
    names = (
        "identity",
        "compute",
        "image",
        "network",
        "placement",
        "kilonova",
        "metrics",
        "healthz",
        "readyz",
    )
    return {"kilonova": {"links": [{"rel": n, "href": f"{req.root}/{n}"} for n in names]}}


def healthz(req: Request) -> Any:
    """Say that this process answers."""
    return {"status": "ok"}


def readyz(req: Request) -> Any:
    """Say whether this process can take work: databases answer, hosts are there."""
    services: Services = req.cloud
    try:
        for db in services.homes().values():
            db.read(lambda tx: None)
    except KilonovaError as exc:
        raise Unavailable("a database does not answer") from exc
    if not any(services.hosts.is_up(h.host) for h in services.hosts.all()):
        raise Unavailable("no host is up")
    return {"status": "ready"}
