"""block_device_mapping and block_device_mapping_v2 of POST /servers, read entry by entry, not judged."""

from typing import Any

from kilonova.api.compute.schemas.common import true
from kilonova.api.compute.shared import whole
from kilonova.common.errors import BadRequest
from kilonova.operations.request_disks import AskedDisk, invalid

_MAX_GIB = 2147483647


def asked_disks(body: dict[str, Any]) -> list[AskedDisk] | None:
    """Return the entries of either form; None when there are none. BadRequest in Nova's words."""
    first, second = body.get("block_device_mapping"), body.get("block_device_mapping_v2")
    if first and second:
        raise BadRequest(
            "Using different block_device_mapping syntaxes is not allowed in the same request."
        )
    if second:
        return [_second_form(e) for e in second]
    return [_first_form(e) for e in first] if first else None


def _common(e: dict[str, Any]) -> dict[str, Any]:
    device = e.get("device_name")
    if device is not None and " " in device:
        raise invalid("Device name contains spaces.")
    size = e.get("volume_size")
    return {
        "size": 0 if size is None else whole(size, "volume_size", high=_MAX_GIB),
        "device": device,
        "delete_on_termination": true(e.get("delete_on_termination", False)),
    }


def _first_form(e: dict[str, Any]) -> AskedDisk:
    """``virtual_name`` (swap, ephemeral), ``snapshot_id`` or ``volume_id``."""
    if e.get("virtual_name") == "NoDevice" or _set(e, "no_device"):
        return AskedDisk(no_device=True, device=e.get("device_name"))
    kind = "snapshot" if e.get("snapshot_id") else "volume" if e.get("volume_id") else ""
    return AskedDisk(
        source=kind,
        destination="volume" if kind else "",
        uuid=e.get(f"{kind}_id"),
        virtual_name=e.get("virtual_name"),
        **_common(e),
    )


def _set(e: dict[str, Any], name: str) -> bool:
    """Nova takes any value here: only presence and truth count."""
    value = e.get(name)
    return bool(value) and str(value).lower() not in ("false", "0", "no", "off")


def _second_form(e: dict[str, Any]) -> AskedDisk:
    if _set(e, "no_device"):
        return AskedDisk(no_device=True, device=e.get("device_name"))
    source = e.get("source_type")
    if source is None:
        raise invalid("Invalid source_type field.")
    uuid = e.get("uuid") or (e.get(f"{source}_id") if source != "blank" else None)
    if source == "blank" and uuid:
        raise invalid("Invalid device UUID.")
    if source != "blank" and not uuid:
        raise invalid("Missing device UUID.")
    index = e.get("boot_index")
    return AskedDisk(
        source=source,
        destination=e.get("destination_type") or _usual_destination(source),
        uuid=uuid,
        boot_index=None if index in (None, "") else whole(index, "boot_index", low=-1 << 31),
        bus=e.get("disk_bus"),
        device_type=e.get("device_type"),
        guest_format=e.get("guest_format"),
        volume_type=e.get("volume_type"),
        tag=e.get("tag"),
        **_common(e),
    )


def _usual_destination(source: str) -> str:
    """source: Nova, where the default follows from the source."""
    return "volume" if source in ("snapshot", "volume") else "local"
