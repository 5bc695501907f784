"""Schemathesis over the running simulated cloud: no 500, no answer that its own description does not know (R19).

KILONOVA_FUZZ_EXAMPLES says how many requests each operation gets per microversion, caller and kind of data; the usual
run gives few to the oldest, the newest and two random microversions of compute, and to the newest of all others.
KILONOVA_FUZZ_SEED repeats a run. KILONOVA_FUZZ_ADDRESS is the URL of a cloud that runs already, and
KILONOVA_FUZZ_PASSWORDS the file with its passwords: what the run makes stays there.
"""

import os
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest

from tests.security.roles_world import World, unlimited
from tests.whole import Elsewhere, Whole, running

EXAMPLES = int(os.environ.get("KILONOVA_FUZZ_EXAMPLES", "1"))
# one seed for all processes of a run on several
RUN = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))
SEED = int(os.environ.get("KILONOVA_FUZZ_SEED", str(RUN.randrange(1 << 30))))
_RANDOM = random.Random(SEED)
COMPUTE = ["2.1", "2.104", *(f"2.{n}" for n in sorted(_RANDOM.sample(range(2, 104), 2)))]
CASES = [("compute", v) for v in COMPUTE] + [
    (s, None) for s in ("identity", "image", "network", "volume", "placement", "kilonova")
]
NEWEST = {"volume": "3.70"}
GONE = {410}  # what a path of an old release answers
UNTOUCHED = (  # what would end the run itself
    ("identity", "delete", "/v3/auth/tokens"),
)
SLOW_S = 2.0


@contextmanager
def _cloud() -> Iterator[Whole]:
    address = os.environ.get("KILONOVA_FUZZ_ADDRESS")
    if not address:
        with running() as made:
            yield made
        return
    there = Elsewhere(address, Path(os.environ["KILONOVA_FUZZ_PASSWORDS"]))
    yield there
    there.hang_up()


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with _cloud() as made:
        for who in ("other", "demo", "admin"):
            made.token(who)
        for project in ("demo", "admin"):
            unlimited(made, project)
        yield made


def _schema(whole: Whole, service: str, version: str | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schemathesis
        from schemathesis.config import SchemathesisConfig

        query = f"?version={version or NEWEST[service]}" if version or service in NEWEST else ""
        got = whole.call("GET", f"/{service}/openapi.json{query}", who=None)
        assert got.status == 200, got
        for operations in got.json["paths"].values():
            for operation in operations.values():  # the header is sent with every request below
                operation["parameters"] = [
                    p for p in operation["parameters"] if p["name"] != "OpenStack-API-Version"
                ]
        return schemathesis.openapi.from_dict(got.json, config=SchemathesisConfig())


@pytest.mark.parametrize("who", ["demo", "admin"])
@pytest.mark.parametrize("service,version", CASES)
def test_fuzz(whole: Whole, service: str, version: str | None, who: str) -> None:
    """R19"""
    print(f"seed {SEED}: {service} {version or ''} as {who}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, sent = _fuzz(whole, service, version, who)
    print(f"{sent} requests")
    assert sent > 0
    assert not found, f"seed {SEED}\n" + "\n".join(found)


def _fuzz(whole: Whole, service: str, version: str | None, who: str) -> tuple[list[str], int]:
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.generation import GenerationMode

    found: dict[str, str] = {}
    sent = 0
    quiet = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    world = World(whole)
    for result in _schema(whole, service, version).get_all_operations():
        operation = result.ok()
        if (service, operation.method.lower(), operation.path) in UNTOUCHED:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            def one(case: Any) -> None:
                nonlocal sent
                sent += 1
                if sent % 2:
                    _aim(world, case, service)
                problem = _look(whole, case, service, version, who)
                if problem:
                    found.setdefault(f"{case.method} {case.path}", problem)
                if case.method != "GET":
                    world.spent()

            try:
                seed(SEED)(quiet(given(operation.as_strategy(generation_mode=mode))(one)))()
            except (Unsatisfiable, SkipTest):
                continue  # nothing negative can be said about an operation without parameters
    return [f"{k}: {v}" for k, v in found.items()], sent


def _aim(world: World, case: Any, service: str) -> None:
    """Let every second request meet something that is there."""
    if not case.path_parameters:
        return
    try:
        parts = world.path(service, case.path).split("/")[2:]
    except AssertionError:
        return  # an earlier request took away what it takes to make one
    for given, name in zip(parts, case.path.split("/")[1:], strict=True):
        if name.startswith("{"):
            case.path_parameters[name[1:-1]] = given


def _look(whole: Whole, case: Any, service: str, version: str | None, who: str) -> str | None:
    from requests.exceptions import InvalidHeader, InvalidURL
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    headers = {"X-Auth-Token": whole.token(who)}
    if version is not None:
        headers["OpenStack-API-Version"] = f"compute {version}"
    elif service == "volume":
        headers["OpenStack-API-Version"] = "volume latest"
    elif service == "placement":
        headers["OpenStack-API-Version"] = "placement latest"
    began = time.perf_counter()
    try:
        response = case.call(base_url=f"{whole.url}/{service}", headers=headers, timeout=60)
    except (InvalidHeader, InvalidURL, UnicodeError):
        return None  # the client library itself will not send it
    took = time.perf_counter() - began
    problems = []
    if response.status_code in GONE:
        return None
    checks: list[Any] = [
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    if response.status_code not in (501, 503):
        checks.append(not_a_server_error)
    if response.status_code == 500:
        problems.append("500")
    try:
        case.validate_response(response, checks=checks)
    except AssertionError as exc:
        problems.append(str(exc)[:1500])
    except BaseExceptionGroup as exc:
        problems += [str(e)[:700] for e in exc.exceptions]
    if took > SLOW_S:
        print(f"slow: {case.method} {case.formatted_path} {took:.1f} s")
    return "; ".join(problems) or None
