"""``GET /kilonova/v1/versions``: who takes part and what all of them write (OBJ-10)."""

from pathlib import Path

from kilonova import __version__
from tests.whole import running


def test_a_cloud_of_one_release_says_so(tmp_path: Path) -> None:
    """OBJ-10: for administrators only."""
    with running(tmp_path, hosts=2) as x:
        seen = x.admin.get("/kilonova/v1/versions")["versions"]
        assert (seen["release"], seen["pin"], seen["pinned"]) == (__version__, {}, False)
        agents = [s for s in seen["services"] if s["role"] == "agent"]
        assert sum(a["count"] for a in agents) == 2
        assert [s["role"] for s in seen["services"] if s["role"] != "agent"] == ["all"]
        assert seen["versions"]["Order"] == "1.0"
        assert x.demo.call("GET", "/kilonova/v1/versions").status == 403
