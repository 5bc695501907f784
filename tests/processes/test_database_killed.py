"""R9: the database server is killed and started again in the middle of creates and deletes; the cloud goes on."""

import threading
import time
from collections.abc import Iterator

import pytest

from tests import databases
from tests.whole import Whole, running, until

S = "/compute/v2.1/servers"
KINDS = {"postgresql": databases.Postgresql, "mariadb": databases.Mariadb}


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.slow)])
def own(request: pytest.FixtureRequest) -> Iterator[databases.Server]:
    server = KINDS[request.param]()
    yield server
    server.close()


class Load:
    """Clients that make servers and delete every second one; each notes what was answered."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self.image = whole.image()
        self.stop = threading.Event()
        self.accepted: list[str] = []
        self.deleted: list[str] = []
        self.refused = 0
        self.wrong: list[object] = []
        self.threads = [threading.Thread(target=self._work, args=(n,)) for n in range(4)]

    def _work(self, n: int) -> None:
        made = 0
        while not self.stop.is_set():
            body = {"name": f"{n}-{made}", "flavorRef": "42", "imageRef": self.image}
            head = {"Idempotency-Key": f"{n}-{made}"}
            sent = {"server": {**body, "networks": "none"}}
            got = self.whole.call("POST", S, sent, version="2.90", headers=head)
            if got.status != 202:
                self._note(got.status, got, (409, 503))
                continue
            server = got.json["server"]["id"]
            self.accepted.append(server)
            made += 1
            if made % 2:
                gone = self.whole.call("DELETE", f"{S}/{server}")
                if gone.status == 204:
                    self.deleted.append(server)
                else:
                    self._note(gone.status, gone, (503,))
        self.whole.hang_up()

    def _note(self, status: int, got: object, allowed: tuple[int, ...]) -> None:
        self.refused += 1
        if status not in allowed:
            self.wrong.append(got)
        time.sleep(0.02)

    def goes_on(self, more: int) -> None:
        """Wait until so many more servers were accepted."""
        before = len(self.accepted)
        until(lambda: len(self.accepted) >= before + more, "more servers", 60.0)


def test_a_killed_server_loses_nothing(own: databases.Server) -> None:
    urls = {n: own.make() for n in databases.CLOUD}
    with running(hosts=2, databases=urls) as whole:
        quota = {"instances": -1, "cores": -1, "ram": -1}
        path = f"/compute/v2.1/os-quota-sets/{whole.project('demo')}"
        assert whole.call("PUT", path, {"quota_set": quota}, who="admin").status == 200
        load = Load(whole)
        whole.token("demo")
        for t in load.threads:
            t.start()
        try:
            for _ in range(3):
                load.goes_on(8)
                refused = load.refused
                own.kill()
                until(lambda before=refused: load.refused > before, "a refusal: it was reached")
                own.start()
            load.goes_on(8)
        finally:
            load.stop.set()
            for t in load.threads:
                t.join(60)
        assert load.wrong == []
        assert len(set(load.accepted)) == len(load.accepted)
        _check(whole, load)


def _check(whole: Whole, load: Load) -> None:
    whole.at_rest()
    shown = whole.call("GET", f"{S}?all_tenants=1&limit=1000", who="admin").json["servers"]
    alive = {s["id"] for s in shown}
    kept = set(load.accepted) - set(load.deleted)
    assert kept <= alive, "what was accepted is there"
    assert not alive & set(load.deleted), "what was deleted is not"
    assert len(shown) == len(alive) and alive <= set(load.accepted), (
        "nothing is there twice, or unasked for"
    )
    failed = [s for s in alive if whole.settled(s).json["server"]["status"] != "ACTIVE"]
    assert failed == [], [whole.settled(s).json for s in failed[:2]]
    assert whole.audit() == []
    for server in alive:
        whole.gone(server)
    assert whole.audit() == []
    standing = {
        k for k in whole.ledger() if k.split(":")[0] in ("server", "allocation", "guest", "port")
    }
    assert standing == set()
