"""S1-S4, S6, S7 at every door: whatever a hostile image asks to become, it is refused, and nothing of it stays.

The image service is the first door. The host is the second, and trusts nobody: an image may have been stored by an
older release, or by another image service. What an API asks of a host comes in by the functions below:

    boot, unshelve, a move's root disk, rescue      Disks.make
    rebuild                                         Disks.make_beside
    a move's ephemeral disk                         Disks.make, as a raw file
    volume from image, boot from a new volume,
    restore of a backup                             QcowVolumes.make
    os-reimage, rebuild of a server on a volume     QcowVolumes.reimage
    image of a server, shelve, a volume's image,
    backup: the host's own upload                   PUT by a signed URL
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import falcon.testing
import pytest

from kilonova.agent.images import ImageCache
from kilonova.common.errors import KilonovaError
from kilonova.common.ids import new_uuid
from kilonova.http.app import Application
from kilonova.image.embedded.routes.hosts import HostRoutes
from kilonova.image.safe_convert import convert_to_qcow2
from kilonova.image.signing import UrlSigner
from kilonova.objects import guest as g
from kilonova.objects.image import Image
from kilonova.objects.volume_orders import VolumeMake
from kilonova.virt.libvirt.disks import Disks, Owner
from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig
from tests.functional.image.conftest import Cloud, authenticate
from tests.security import image_fixtures as fx
from tests.security.test_images_inspect import HOSTILE, Make

SHOWN = (
    "S1 backing file", "S6 nbd", "S6 json", "S2 data file", "S2 data file name", "S2 unknown bit",
    "S3 flat file", "S3 device", "S3 path", "S4 qcow2 as raw", "S4 polyglot as qcow2",
    "S4 vmdk text as raw", "S7 8 TiB", "S7 L1 huge", "luks", "snapshots", "S7 vmdk capacity",
)  # fmt: skip
TOO_LARGE = "S7 8 TiB"  # what it says it is; a host may keep it, no disk is made of it
FORMATS = [(name, make, declared) for name, make, declared, _ in HOSTILE if name in SHOWN]


@dataclass
class House:
    """One directory, with all the doors. image: the hostile file. declared: what its record says that it is."""

    root: Path
    image: Path
    declared: str
    cloud: Cloud
    signer: UrlSigner

    @property
    def source(self) -> g.ImageSource:
        size = self.image.stat().st_size
        return g.ImageSource(image_id="i", url="image:i", disk_format=self.declared, size=size)

    def cache(self) -> ImageCache:
        return ImageCache(
            self.root / "cache", convert_to_qcow2, open_image=lambda _: self.image.open("rb")
        )

    def disks(self) -> Disks:
        return Disks(self.root / "instances", self.cache(), Owner())

    def volumes(self) -> QcowVolumes:
        config = VolumesConfig(self.root / "volumes", "host1")
        return QcowVolumes(config, self.cache(), lambda *_: None)

    def queued(self) -> str:
        made = self.cloud.images.create(
            Image(
                id=new_uuid(),
                status="queued",
                owner="alpha",
                disk_format=self.declared,
                container_format="bare",
            )
        )
        return made.id

    def left(self, cache: bool) -> list[str]:
        """Return what stayed, besides what was there before."""
        kinds = ("instances", "volumes", "data", *(["cache"] if cache else []))
        found = [p for k in kinds for p in (self.root / k).rglob("*") if p.is_file()]
        return [str(p) for p in found if p.read_bytes() != b"old"]


def build_of(house: House, disk: str) -> g.GuestBuild:
    server = new_uuid()
    (house.disks().directory(server)).mkdir()
    return g.GuestBuild(
        server_id=server,
        name="s",
        project_id="p",
        vcpus=1,
        memory_mib=64,
        disks=(g.LocalDisk(name=disk, size_gib=1, image_id="i", boot_index=0),),
        nics=(),
        images=(house.source,),
        hardware=g.Hardware(),
        metadata=g.MetadataDocument(
            server_id=server,
            generation=1,
            name="s",
            hostname="s",
            project_id="p",
            availability_zone="nova",
        ),
    )


def quiet(text: str) -> None:
    """Nobody watches."""


def upload(house: House) -> None:
    """PUT /v2/images/{id}/file"""
    house.cloud.images.upload(house.queued(), [house.image.read_bytes()])


def import_staged(house: House) -> None:
    """PUT …/stage, POST …/import"""
    image = house.queued()
    house.cloud.images.stage(image, [house.image.read_bytes()])
    house.cloud.images.import_staged(image)


def a_host_uploads(house: House) -> None:
    """The URL is signed for this image and host; its bytes are looked at all the same."""
    routes = HostRoutes(house.cloud.images, house.signer)
    app = Application([routes.service()], None, authenticate, "http://cloud:8774")
    url = urlsplit(house.signer.url(house.queued(), "host1", "PUT"))
    done = falcon.testing.TestClient(app.wsgi).simulate_put(
        url.path, query_string=url.query, body=house.image.read_bytes()
    )
    assert done.status_code in (400, 409, 415), done.text
    raise KilonovaError(done.text)


def boot(house: House) -> None:
    house.disks().make(build_of(house, "root"), quiet)


def rescue(house: House) -> None:
    house.disks().make(build_of(house, "rescue"), quiet)


def moved_ephemeral(house: House) -> None:
    house.disks().make(build_of(house, "ephemeral0"), quiet)


def rebuild(house: House) -> None:
    build = build_of(house, "root")
    (house.disks().directory(build.server_id) / "root.qcow2").write_text("old")
    house.disks().make_beside(build, ["root"], "mark", quiet)


def volume(house: House) -> None:
    make = VolumeMake(volume_id=new_uuid(), size_gib=1, image=house.source)
    house.volumes().make(make, quiet)


def reimage(house: House) -> None:
    """The data that the volume had are still there."""
    make = VolumeMake(volume_id=new_uuid(), size_gib=1, image=house.source)
    store = house.volumes()
    path = Path(store.make(make.replace(image=None), quiet).path)
    before = path.read_bytes()
    try:
        store.reimage(make, quiet)
    finally:
        assert path.read_bytes() == before
        path.write_text("old")


DOORS: tuple[Callable[[House], None], ...] = (
    upload,
    import_staged,
    a_host_uploads,
    boot,
    rescue,
    moved_ephemeral,
    rebuild,
    volume,
    reimage,
)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("door", DOORS, ids=lambda d: d.__name__)
@pytest.mark.parametrize(("name", "make", "declared"), FORMATS, ids=[f[0] for f in FORMATS])
def test_refused_at_the_door(
    tmp_path: Path,
    cloud: Cloud,
    name: str,
    make: Make,
    declared: str,
    door: Callable[[House], None],
) -> None:
    """What the tenant reads names no file of ours; nothing of the image is left."""
    work = tmp_path / "hostile"
    work.mkdir()
    house = House(tmp_path, make(work), declared, cloud, UrlSigner(b"k" * 32, "http://cloud:8774"))
    with pytest.raises(KilonovaError) as refused:
        door(house)
    assert str(tmp_path) not in refused.value.message
    assert "hostname" not in refused.value.message
    assert house.left(cache=name != TOO_LARGE) == []


@pytest.mark.parametrize("door", [boot, rescue, moved_ephemeral, rebuild, volume, reimage])
def test_a_sound_image_passes(tmp_path: Path, cloud: Cloud, door: Callable[[House], None]) -> None:
    """The doors are not merely shut."""
    image = fx.create(tmp_path / "image", "qcow2")
    house = House(tmp_path, image, "qcow2", cloud, UrlSigner(b"k" * 32, "http://cloud:8774"))
    if door is reimage:
        with pytest.raises(AssertionError):
            door(house)  # the volume has other data now
    else:
        door(house)


def test_every_format_of_the_table_is_there() -> None:
    assert {f[0] for f in FORMATS} == set(SHOWN)
