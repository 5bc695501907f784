"""An image as compute sees it, whichever service keeps it."""

from kilonova.objects.base import Versioned


class Image(Versioned, frozen=True, kw_only=True):
    """One image's record; never its bytes, never where they are kept.

    size, virtual_size: bytes, None until data is there. min_disk: GiB. min_ram: MiB. checksum: MD5, kept for clients;
    os_hash_value is what a downloader compares. status: queued, saving, uploading, importing, active, deactivated.
    visibility: public, community, shared, private. properties: everything else that the owner wrote on it.
    """

    id: str
    name: str | None = None
    status: str
    visibility: str = "shared"
    owner: str | None = None
    disk_format: str | None = None
    container_format: str | None = None
    size: int | None = None
    virtual_size: int | None = None
    min_disk: int = 0
    min_ram: int = 0
    checksum: str | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    protected: bool = False
    hidden: bool = False
    properties: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    created_at: float = 0.0
    updated_at: float = 0.0
