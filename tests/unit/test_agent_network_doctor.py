"""The doctor: rows with a command for each ✗, nothing changed on the machine."""

from pathlib import Path

import pytest

from kilonova.agent import doctor


def test_every_failed_row_says_how_to_mend(tmp_path: Path) -> None:
    rows = doctor.run_checks(tmp_path / "not" / "there", try_kvm=False)
    names = [row.name for row in rows]
    assert len(names) == len(set(names)) == 14
    for row in rows:
        assert row.detail
        assert row.ok or row.mend or row.name == "KVM", row
    assert not (tmp_path / "not").exists()
    assert {row.name for row in doctor.real_guests_can_run(rows)} <= set(names)


def test_a_network_that_overlaps_a_route_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipaddress

    taken = [ipaddress.IPv4Network("172.16.0.0/12")]
    monkeypatch.setattr(doctor, "routes", lambda: taken)
    assert doctor.choose_cidr() == "10.244.244.0/24"
    assert doctor.choose_cidr(("172.24.4.0/24",)) is None
    taken[:] = []
    assert doctor.choose_cidr() == doctor.DEFAULT_CIDRS[0]
