"""Resize a real guest: the new size is seen inside, a revert brings the old disk back, a confirm keeps the new one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.cloud import COMPUTE, RealCloud, new_key, running_cloud
from tests.real.outside import missing
from tests.real.patience import answers

_why = missing()
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(_why is not None, reason=str(_why)),
    pytest.mark.timeout(900),
]
SECTORS = "cat /sys/block/vda/size"


@pytest.fixture(scope="module")
def cloud() -> Iterator[RealCloud]:
    with running_cloud() as (made, _):
        yield made


def test_there_back_and_for_good(cloud: RealCloud, tmp_path: Path) -> None:
    """What was written while it was resized is lost by the revert; files aside are gone at the end."""
    key = new_key(tmp_path, cloud)
    cloud.allow("tcp", 22)
    idle = cloud.idle()
    body = {"name": "bigger", "vcpus": 1, "ram": 256, "disk": 2}
    flavor = cloud.client("admin").call("POST", f"{COMPUTE}/flavors", {"flavor": body})["flavor"]
    server = cloud.boot("grows", key_name="test")
    server.status("ACTIVE")
    server.attach_floating(key)
    before = answers(server, f"echo one >/root/marker; sync; {SECTORS}")
    kept = cloud.instances / server.id / "kept-disks"

    server.act("resize", {"flavorRef": flavor["id"]})
    server.status("VERIFY_RESIZE")
    assert kept.is_dir()
    during = answers(server, f"echo two >>/root/marker; sync; {SECTORS}")
    assert (int(before), int(during)) == (2 << 20, 4 << 20)

    server.act("revertResize")
    server.status("ACTIVE")
    assert not kept.exists()
    assert answers(server, f"cat /root/marker; {SECTORS}").split() == ["one", before]

    server.act("resize", {"flavorRef": flavor["id"]})
    server.status("VERIFY_RESIZE")
    server.act("confirmResize")
    server.status("ACTIVE")
    assert not kept.exists()
    assert answers(server, f"cat /root/marker; {SECTORS}").split() == ["one", during]
    cloud.check_audit()
    server.delete()
    server.gone()
    cloud.check_ledger(idle)
