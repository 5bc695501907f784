"""What Tempest met in the compute API on a whole cloud, each as it failed before."""

from collections.abc import Iterator

import pytest

from tests.whole import Whole, running

V = "/compute/v2.1"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=1) as made:
        yield made


@pytest.fixture(scope="module")
def server(whole: Whole) -> str:
    return whole.server("web.one-7")


def test_answers_carry_the_request_id_under_both_names(whole: Whole) -> None:
    got = whole.call("GET", f"{V}/servers")
    assert got.headers["x-openstack-request-id"] == got.headers["x-compute-request-id"]
    refused = whole.call("GET", f"{V}/servers/none")
    assert refused.headers["x-openstack-request-id"].startswith("req-")


def test_an_update_without_a_field_changes_nothing(whole: Whole, server: str) -> None:
    got = whole.call("PUT", f"{V}/servers/{server}", {"server": {}}, version="2.75")
    assert got.status == 200 and got.json["server"]["name"] == "web.one-7"


def test_disk_config_is_kept(whole: Whole, server: str) -> None:
    name = "OS-DCF:diskConfig"
    assert whole.call("GET", f"{V}/servers/{server}").json["server"][name] == "MANUAL"
    for value in ("AUTO", "MANUAL", "AUTO"):
        body = {"server": {name: value}}
        assert whole.call("PUT", f"{V}/servers/{server}", body).json["server"][name] == value
        assert whole.call("GET", f"{V}/servers/{server}").json["server"][name] == value
    other = whole.server("auto", **{name: "AUTO"})
    assert whole.call("GET", f"{V}/servers/{other}").json["server"][name] == "AUTO"


def test_a_rebuild_and_a_resize_keep_the_disk_config(whole: Whole) -> None:
    name = "OS-DCF:diskConfig"
    server = whole.server("made-anew", who="admin")
    path = f"{V}/servers/{server}"
    asked = {"imageRef": whole.image(), name: "AUTO"}
    got = whole.call("POST", path + "/action", {"rebuild": asked}, who="admin", version="2.75")
    assert got.status == 202 and got.json["server"][name] == "AUTO"
    assert "user_data" in got.json["server"]
    assert "OS-EXT-SRV-ATTR:user_data" not in got.json["server"]
    assert whole.settled(server).json["server"][name] == "AUTO"
    for act, status in (("revertResize", 202), ("confirmResize", 204)):
        resize = {"resize": {"flavorRef": "1", name: "MANUAL"}}
        assert whole.call("POST", path + "/action", resize, who="admin").status == 202
        assert whole.settled(server).json["server"]["status"] == "VERIFY_RESIZE"
        got = whole.call("POST", path + "/action", {act: {}}, who="admin")
        assert got.status == status, got
        assert whole.settled(server).json["server"][name] == "MANUAL"


def test_access_addresses_are_written_as_everybody_does(whole: Whole, server: str) -> None:
    body = {"server": {"accessIPv6": "0000:0000:0000:0000:0000:babe:220.12.22.2"}}
    got = whole.call("PUT", f"{V}/servers/{server}", body)
    assert got.json["server"]["accessIPv6"] == "::babe:dc0c:1602"
    got = whole.call("PUT", f"{V}/servers/{server}", {"server": {"accessIPv6": None}})
    assert got.json["server"]["accessIPv6"] == ""


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"^web\.[a-z]+\-[0-9]$", True),
        ("^WEB", True),
        ("ONE", True),
        ("^one", False),
        ("7$", True),
        (".*one.*", True),
        ("(web|auto)", True),
        ("web-one", False),
        ("web.one", True),
    ],
)
def test_names_are_matched_as_expressions(
    whole: Whole, server: str, pattern: str, found: bool
) -> None:
    got = whole.call("GET", f"{V}/servers?name={pattern.replace('+', '%2B')}")
    assert (server in [s["id"] for s in got.json["servers"]]) is found


def test_an_expression_is_bounded(whole: Whole, server: str) -> None:
    for bad in ("(", "[z-a]", "a{1000000}", "a*" * 200):
        assert whole.call("GET", f"{V}/servers?name={bad}").status == 400, bad
    assert whole.call("GET", f"{V}/servers?name=(a*)*(a*)*(a*)*b$").json["servers"] == []


def test_a_limit_of_nothing_lists_nothing(whole: Whole, server: str) -> None:
    assert whole.call("GET", f"{V}/servers?limit=0").json == {"servers": []}


def test_an_empty_id_is_not_found(whole: Whole) -> None:
    assert whole.call("GET", f"{V}/servers/").status == 404
    assert whole.call("GET", f"{V}/os-simple-tenant-usage/", who="admin").status == 404
    assert whole.call("DELETE", f"{V}/os-aggregates/", who="admin").status == 404
    assert whole.call("GET", "/image/v2/images/").status == 404
    assert whole.call("DELETE", "/image/v2/images/").status == 404
    for root in ("/compute/", f"{V}/", "/network/v2.0/", "/identity/v3/"):
        assert whole.call("GET", root).status == 200, root
    assert whole.call("GET", "/image/v2/").status == 300


def test_a_negative_aggregate_is_not_found(whole: Whole) -> None:
    assert whole.call("GET", f"{V}/os-aggregates/-1", who="admin").status == 404
    assert whole.call("GET", f"{V}/os-aggregates/x", who="admin").status == 400


def test_quotas_of_the_old_network_are_kept(whole: Whole) -> None:
    body = {"quota_class_set": {"fixed_ips": 99, "floating_ips": 98}}
    path = f"{V}/os-quota-class-sets/default"
    got = whole.call("PUT", path, body, who="admin")
    assert got.json["quota_class_set"]["fixed_ips"] == 99
    assert whole.call("GET", path, who="admin").json["quota_class_set"]["floating_ips"] == 98


def test_a_missing_host_is_not_found_before_it_is_not_offered(whole: Whole) -> None:
    for act in ("startup", "shutdown", "reboot"):
        assert whole.call("GET", f"{V}/os-hosts/none/{act}", who="admin").status == 404
        assert whole.call("GET", f"{V}/os-hosts/cell1-host1/{act}", who="admin").status == 501


def test_the_usage_audit_log_says_that_nothing_ran(whole: Whole) -> None:
    path = f"{V}/os-instance_usage_audit_log"
    report = whole.call("GET", path, who="admin").json["instance_usage_audit_logs"]
    assert report["overall_status"] == "0 of 1 hosts done. 0 errors."
    past = whole.call("GET", f"{path}/2026-01-15%2010:00:00", who="admin").json
    assert past["instance_usage_audit_log"]["period_beginning"] == "2025-12-01 00:00:00"
    assert past["instance_usage_audit_log"]["period_ending"] == "2026-01-01 00:00:00"
    assert whole.call("GET", f"{path}/yesterday", who="admin").status == 400
    assert whole.call("GET", path).status == 403


def test_the_console_log_counts_lines_as_nova_does(whole: Whole, server: str) -> None:
    for lines in (1, 2):
        body = {"os-getConsoleOutput": {"length": lines}}
        got = whole.call("POST", f"{V}/servers/{server}/action", body)
        assert len(got.json["output"].split("\n")) == lines
