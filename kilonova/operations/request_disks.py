"""block_device_mapping: from what a request, an image and a flavor say to the disks of a server, all checked.

Nothing is made here. source: compute API reference, "block_device_mapping_v2"; Nova's block device mapping guide, whose
words the refusals use.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Forbidden, NotFound
from kilonova.objects.image import Image
from kilonova.objects.image_properties import ImageProperties
from kilonova.objects.server import DiskRequest, FlavorRecord, ImageRecord
from kilonova.objects.volume import Volume, VolumeWanted
from kilonova.operations import image_signatures, images, server_disks
from kilonova.operations.services import Services

GIB = 1024**3
MAX_LOCAL = 3
_BUSES = frozenset(
    ("fdc", "ide", "sata", "scsi", "usb", "virtio", "xen", "lxc", "uml")  # source: Nova, DiskBus
)
_NOT_PROPERTIES = frozenset(
    (
        *("image_id", "image_name", "checksum", "container_format", "disk_format"),
        *("min_disk", "min_ram", "size", "signature_verified"),
        *image_signatures.PROPERTIES,  # the bytes of a volume have gone on since
    )
)


@dataclass(frozen=True)
class AskedDisk:
    """One entry as a request or an image gives it. uuid: of what it is made from. size: GiB, of swap MiB."""

    source: str = ""
    destination: str = ""
    uuid: str | None = None
    size: int = 0
    boot_index: int | None = None
    device: str | None = None
    bus: str | None = None
    device_type: str | None = None
    guest_format: str | None = None
    volume_type: str | None = None
    tag: str | None = None
    delete_on_termination: bool = False
    no_device: bool = False
    virtual_name: str | None = None  # of the first form: "swap", "ephemeral0"

    @property
    def is_swap(self) -> bool:
        return self.source == "blank" and not self.to_volume and self.guest_format == "swap"

    @property
    def is_ephemeral(self) -> bool:
        return self.source == "blank" and not self.to_volume and not self.is_swap

    @property
    def to_volume(self) -> bool:
        return self.destination == "volume"

    @property
    def boots(self) -> bool:
        return self.boot_index == 0


@dataclass(frozen=True)
class Wish:
    """What is asked for. disks None: nothing was said. legacy: by block_device_mapping, the first form.

    trusted_certs: what every image must be certified by, those too that volumes are made of.
    """

    flavor: FlavorRecord
    image: Image | None
    disks: Sequence[AskedDisk] | None = None
    legacy: bool = False
    low: int = 1
    high: int = 1
    may_zero_disk: bool = False
    multiattach: bool = True
    trusted_certs: Sequence[str] | None = None


@dataclass(frozen=True)
class Plan:
    """The disks of a server, and the image that its guest follows (id "" when it boots from a volume without one)."""

    disks: tuple[DiskRequest, ...]
    image: ImageRecord | None


def invalid(why: str) -> BadRequest:
    """Return Nova's refusal of a mapping."""
    return BadRequest(f"Block Device Mapping is Invalid: {why}")


def plan(services: Services, ctx: Context, wish: Wish) -> Plan:
    """Return the disks of each server of a request.

    BadRequest in Nova's words. Forbidden: a flavor without a root disk that only volume-backed servers may use.
    QuotaExceeded: of the volume service, for all servers of the request.
    """
    asked = _merged(wish)
    if wish.high > 1 and any(a.source == "volume" for a in asked):
        raise BadRequest("Cannot attach one or more volumes to multiple instances")
    root = _check_boot_order(wish, asked)
    sources = _Sources(services, ctx, wish.trusted_certs)
    disks = [_resolve(sources, wish, a, i) for i, a in enumerate(asked)]
    _check_certified(wish, disks)
    _check_local(wish, asked)
    if not root.to_volume and wish.flavor.root_gib == 0 and not wish.may_zero_disk:
        raise Forbidden("Only volume-backed servers are allowed for flavors with zero disk.")
    image = _image(sources, wish, root, next(d for d in disks if server_disks.is_root(d)))
    _check_new(services, ctx, wish, disks)
    bus = None if image is None else ImageProperties.read(image.properties).hw_disk_bus
    return Plan(
        server_disks.named(_local_names([d.replace(bus=d.bus or bus) for d in disks])), image
    )


# -- what image, request and flavor say, together


def _merged(wish: Wish) -> list[AskedDisk]:
    """Return all entries: the request's, the image's that it does not override by device name, the flavor's."""
    of_image, root_device = _image_defined(wish.image)
    root_in_image = any(a.boots for a in of_image)
    asked = list(wish.disks or ())
    if wish.image is not None and any(
        a.to_volume and a.device is not None and _bare(a.device) == root_device for a in asked
    ):
        raise BadRequest(
            f"The volume cannot be assigned the same device name as the root device {root_device}"
        )
    if wish.legacy or wish.disks is None:
        asked = _from_legacy(wish, asked, root_device, root_in_image=root_in_image)
    elif root_in_image:
        asked = [a for a in asked if not (a.boots and a.source == "image")]
    taken = {_bare(a.device) for a in asked if a.device}
    asked += [a for a in of_image if not a.device or _bare(a.device) not in taken]
    asked = [a for a in asked if not a.no_device]
    flavor = wish.flavor
    if flavor.ephemeral_gib and not any(a.is_ephemeral for a in asked):
        asked.append(AskedDisk("blank", "local", size=flavor.ephemeral_gib))
    if flavor.swap_mib and not any(a.is_swap for a in asked):
        asked.append(AskedDisk("blank", "local", size=flavor.swap_mib, guest_format="swap"))
    return asked


def _bare(device: str | None) -> str:
    return (device or "").removeprefix("/dev/")


def _from_legacy(
    wish: Wish, asked: list[AskedDisk], root_device: str, *, root_in_image: bool
) -> list[AskedDisk]:
    """Read the first form, which names no boot order: the root is the image, or what has the root device's name."""
    out = [_second_form(a) for a in asked]
    if root_in_image:
        return [replace(a, boot_index=None) for a in out]
    named = [
        replace(a, boot_index=0 if a.source != "blank" and _bare(a.device) == root_device else None)
        for a in out
    ]
    if any(a.boots for a in named):
        return named
    if wish.image is not None:
        root = AskedDisk("image", "local", uuid=wish.image.id, boot_index=0)
        return [replace(root, delete_on_termination=True), *named]
    first = next((i for i, a in enumerate(named) if a.source not in ("blank", "")), None)
    return [replace(a, boot_index=0) if i == first else a for i, a in enumerate(named)]


def _second_form(a: AskedDisk) -> AskedDisk:
    name = a.virtual_name or ""
    if name == "swap" or name.startswith("ephemeral"):
        return replace(
            a,
            source="blank",
            destination="local",
            delete_on_termination=True,
            guest_format="swap" if name == "swap" else None,
        )
    if a.source or a.no_device:
        return a
    raise invalid("Unrecognized legacy format.")


def _image_defined(image: Image | None) -> tuple[list[AskedDisk], str]:
    """Return (mappings, root device name) that an image brings (a snapshot of a volume-backed server)."""
    if image is None:
        return [], "vda"
    root = _bare(image.properties.get("root_device_name")) or "vda"
    text = image.properties.get("block_device_mapping")
    if not text:
        return [], root
    try:
        entries = msgspec.json.decode(text, type=list[dict[str, Any]])
        asked = [from_image(e) for e in entries]
    except (msgspec.MsgspecError, ValueError, TypeError) as exc:
        raise BadRequest(
            f"Image {image.id} has a block_device_mapping that cannot be read."
        ) from exc
    if str(image.properties.get("bdm_v2", "")).lower() in ("true", "1", "yes"):
        return asked, root
    return [
        replace(a, boot_index=0 if _bare(a.device) == root and a.source else None) for a in asked
    ], root


def from_image(e: Mapping[str, Any]) -> AskedDisk:
    """Read an entry of an image's ``block_device_mapping``. ValueError, TypeError when it is none."""
    source = e.get("source_type") or (
        "snapshot" if e.get("snapshot_id") else "volume" if e.get("volume_id") else ""
    )
    index = e.get("boot_index")
    return AskedDisk(
        source=str(source),
        destination=str(e.get("destination_type") or ("volume" if source else "")),
        uuid=e.get(f"{source}_id") or e.get("uuid"),
        size=int(e.get("volume_size") or 0),
        boot_index=None if index is None else int(index),
        device=e.get("device_name"),
        bus=e.get("disk_bus"),
        device_type=e.get("device_type"),
        guest_format=e.get("guest_format"),
        volume_type=e.get("volume_type"),
        tag=e.get("tag"),
        delete_on_termination=bool(e.get("delete_on_termination")),
        no_device=bool(e.get("no_device")),
    )


# -- checks


def _check_boot_order(wish: Wish, asked: list[AskedDisk]) -> AskedDisk:
    """Return the root disk. Boot indexes are 0, 1, 2 …, each once."""
    indexes = sorted(a.boot_index for a in asked if a.boot_index is not None and a.boot_index >= 0)
    if wish.image is None and not indexes and not wish.disks:
        raise BadRequest("Invalid imageRef provided.")
    if not indexes or indexes != list(range(len(indexes))):
        raise invalid(
            "Boot sequence for the instance and image/block device mapping combination is not valid."
        )
    return next(a for a in asked if a.boots)


def _check_local(wish: Wish, asked: list[AskedDisk]) -> None:
    flavor = wish.flavor
    ephemeral = sum(a.size or flavor.ephemeral_gib for a in asked if a.is_ephemeral)
    if ephemeral > flavor.ephemeral_gib:
        raise BadRequest(
            "Ephemeral disks requested are larger than the instance type allows. If no size is "
            "given in one block device mapping, flavor ephemeral size will be used."
        )
    swap = [a for a in asked if a.is_swap]
    if len(swap) > 1:
        raise invalid("More than one swap drive requested.")
    if swap and swap[0].size > flavor.swap_mib:
        raise BadRequest("Swap drive requested is larger than instance type allows.")
    if sum(not a.to_volume for a in asked) > MAX_LOCAL:
        raise invalid("You specified more local devices than the limit allows")


def _check_certified(wish: Wish, disks: Iterable[DiskRequest]) -> None:
    """Images are verified, also those that volumes are made of; what is in a volume or a snapshot cannot be."""
    if wish.trusted_certs and any(d.volume_id or d.snapshot_id for d in disks):
        raise BadRequest(
            "Image certificate validation is not supported with volumes and snapshots that are there already."
        )


def _check_new(services: Services, ctx: Context, wish: Wish, disks: Iterable[DiskRequest]) -> None:
    """Ask the volume service whether all the volumes that the request makes may be made."""
    new = [
        VolumeWanted(
            project_id=str(ctx.project_id),
            user_id=str(ctx.user_id),
            size_gib=d.size_gib,
            image_id=d.image_id,
            snapshot_id=d.snapshot_id,
            volume_type=d.volume_type,
        )
        for d in disks
        if d.destination == "volume" and d.volume_id is None
    ]
    if not new:
        return
    try:
        services.volumes.check_new(ctx, new * wish.low)
    except NotFound as exc:  # a type in the body of a request
        raise BadRequest(exc.message) from exc


# -- one disk


class _Sources:
    """Images, volumes and snapshots that a request names, each read once."""

    def __init__(
        self, services: Services, ctx: Context, trusted: Sequence[str] | None = None
    ) -> None:
        self._services = services
        self._ctx = ctx
        self._trusted = trusted
        self._seen: dict[tuple[str, str], Any] = {}

    def _get(self, kind: str, id_: str, read: Callable[[Context, str], Any]) -> Any:
        key = (kind, id_)
        if key not in self._seen:
            try:
                self._seen[key] = read(self._ctx, id_)
            except (NotFound, BadRequest) as exc:
                raise invalid(f"failed to get {kind} {id_}.") from exc
        return self._seen[key]

    def image(self, id_: str) -> Image:
        found: Image = self._get("image", id_, self._services.images.get)
        if found.status != "active":
            raise BadRequest(f"Image {found.id} is not active.")
        return image_signatures.verified(self._services, found, self._trusted)

    def volume(self, id_: str) -> Volume:
        found: Volume = self._get("volume", id_, self._services.volumes.get)
        return found

    def snapshot(self, id_: str) -> Any:
        return self._get("snapshot", id_, self._services.volumes.get_snapshot)

    def check_attach(self, volume: Volume, wish: Wish) -> None:
        check_attachable(self._services, volume, multiattach=wish.multiattach)

    def find_volume(self, id_: str) -> Volume | None:
        return self._services.volumes.find(id_)


def check_attachable(services: Services, volume: Volume, *, multiattach: bool) -> None:
    """Refuse, in Nova's words, a volume that cannot be attached now or by this request."""
    services.volumes.check_attach(volume)
    if volume.multiattach and not multiattach:
        raise BadRequest(
            "Multiattach volumes are only supported starting with compute API version 2.60."
        )
    if volume.encrypted:
        raise BadRequest(
            f"Invalid volume: Volume {volume.id} is encrypted, which the hosts of this cloud cannot attach."
        )


def _resolve(sources: _Sources, wish: Wish, a: AskedDisk, index: int) -> DiskRequest:
    """Return a checked disk. Its item is its place in the request."""
    if a.bus is not None and a.bus not in _BUSES:
        raise invalid(f"The provided disk bus {a.bus[:40]} is not valid.")
    if a.volume_type and not a.to_volume:
        raise invalid("Specifying a volume_type with destination_type=local is not supported.")
    disk = DiskRequest(
        source=a.source,
        destination=a.destination or "local",
        size_gib=a.size,
        boot_index=a.boot_index if a.boot_index is not None and a.boot_index >= 0 else None,
        device=a.device,
        bus=a.bus,
        device_type=a.device_type,
        guest_format=a.guest_format,
        tag=a.tag,
        volume_type=a.volume_type or None,
        delete_on_termination=a.delete_on_termination,
        name=f"disk{index}",
        item=f"disk{index}" if a.to_volume else "",
    )
    return (_volume_disk if a.to_volume else _local_disk)(sources, wish, a, disk)


def _volume_disk(sources: _Sources, wish: Wish, a: AskedDisk, disk: DiskRequest) -> DiskRequest:
    if a.source == "image":
        sources.image(str(a.uuid))
        if not a.size:
            raise BadRequest(
                "Images with destination_type 'volume' need to have a non-zero size specified"
            )
        return disk.replace(image_id=a.uuid)
    if a.source == "volume":
        volume = sources.volume(str(a.uuid))
        sources.check_attach(volume, wish)
        return disk.replace(
            volume_id=volume.id, size_gib=volume.size_gib, mode="ro" if volume.readonly else "rw"
        )
    if a.source == "snapshot":
        snapshot = sources.snapshot(str(a.uuid))
        return disk.replace(snapshot_id=snapshot.id, size_gib=a.size or snapshot.size_gib)
    if not a.size:
        raise BadRequest(
            "Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size"
        )
    return disk


def _local_disk(sources: _Sources, wish: Wish, a: AskedDisk, disk: DiskRequest) -> DiskRequest:
    flavor = wish.flavor
    if a.source == "image":
        if wish.image is None or not a.boots or a.uuid != wish.image.id:
            raise invalid("Mapping image to local is not supported.")
        return disk.replace(image_id=wish.image.id, size_gib=flavor.root_gib, name="root")
    if a.is_swap:
        return disk.replace(size_gib=0, size_mib=a.size or flavor.swap_mib)
    if a.source == "blank":
        return disk.replace(size_gib=a.size or flavor.ephemeral_gib)
    raise invalid(f"A {a.source or 'disk'} cannot be mapped to local.")


def _local_names(disks: Iterable[DiskRequest]) -> list[DiskRequest]:
    """Give local disks the names of their files."""
    out, n = [], 0
    for d in disks:
        if d.destination != "volume" and d.name != "root":
            swap = d.guest_format == "swap"
            d = d.replace(name="swap" if swap else f"ephemeral{n}")
            n += not swap
        out.append(d)
    return out


# -- the image that the guest follows


def _image(sources: _Sources, wish: Wish, root: AskedDisk, disk: DiskRequest) -> ImageRecord | None:
    """Return the image's record, of a volume's without an id; its minima are checked against flavor and root disk."""
    flavor = wish.flavor
    if wish.image is not None:
        _check_image(wish.image, flavor, root, disk)
        return images.record(wish.image)
    if root.source == "image":
        image = sources.image(str(root.uuid))
        _check_image(image, flavor, root, disk)
        return images.record(image).replace(id="", size=0)
    found: Volume | None = None
    if root.source == "volume":
        found = sources.volume(str(root.uuid))
        if not found.bootable:
            raise BadRequest(f"Block Device {found.id} is not bootable.")
    elif root.source == "snapshot":
        found = sources.find_volume(sources.snapshot(str(root.uuid)).volume_id)
    if found is None or not found.image:
        return None
    properties = {k: v for k, v in found.image.items() if k not in _NOT_PROPERTIES}
    ImageProperties.read(properties)
    if int(found.image.get("min_ram") or 0) > flavor.memory_mib:
        raise BadRequest("Flavor's memory is too small for requested image.")
    return ImageRecord(
        id="",
        name=found.image.get("image_name", ""),
        disk_format=found.image.get("disk_format", "raw"),
        size=0,
        properties=properties,
    )


def _check_image(image: Image, flavor: FlavorRecord, root: AskedDisk, disk: DiskRequest) -> None:
    ImageProperties.read(image.properties)
    images.check_memory(image, flavor)
    if not root.to_volume:
        images.check_disk(image, flavor)
    elif root.source == "image" and image.min_disk > disk.size_gib:
        raise BadRequest(
            "Volume is smaller than the minimum size specified in image metadata. Volume size is "
            f"{disk.size_gib * GIB} bytes, minimum size is {image.min_disk * GIB} bytes."
        )
