"""What compute needs of an image service, embedded or a real Glance."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Protocol

from kilonova.common.context import Context
from kilonova.objects.image import Image

NO_MORE: Mapping[str, str] = MappingProxyType({})


class ImageData(Protocol):
    """An image's bytes, being read. Closing it early is fine."""

    size: int

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, b"" at the end."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Give the rest in pieces of at most 1 MiB."""
        ...

    def close(self) -> None:
        """Let go of it. Safe to repeat."""
        ...


class ImageService(Protocol):
    """The image service; safe to use from any thread."""

    def get(self, ctx: Context, image_id: str) -> Image:
        """Return an image that the caller may see; NotFound alike for a missing and for a foreign one."""
        ...

    def open(self, image_id: str) -> AbstractContextManager[ImageData]:
        """Open an active image's bytes for a host; who may was asked before. NotFound; Conflict without data."""
        ...

    def find(self, image_id: str) -> Image | None:
        """Return any project's image."""
        ...

    def made_with(self, project_id: str, properties: Mapping[str, str]) -> list[Image]:
        """Return a project's images that have all these properties, the newest first."""
        ...

    def describe(
        self,
        image_id: str,
        *,
        disk_format: str,
        container_format: str,
        properties: Mapping[str, str] = NO_MORE,
    ) -> Image:
        """Say what the bytes of a queued image are, and add properties. Repeatable. NotFound."""
        ...

    def find_by_key(self, project_id: str, key: str) -> Image | None:
        """Return the image that ``ensure`` made for this key, if it is there."""
        ...

    def ensure(self, key: str, image: Image) -> Image:
        """Return the image of ``key`` = (operation, item), making its record (status queued) if there is none.

        The record takes owner, name, formats, minima, visibility and properties from ``image``; a service that mints
        its own ids ignores ``image.id``. Repeating it gives the same image.
        """
        ...

    def upload(self, image_id: str, data: Iterable[bytes]) -> Image:
        """Give an image that is queued its bytes, or leave it queued with nothing stored; Conflict when it has some."""
        ...

    def delete(self, image_id: str) -> None:
        """Remove an image and its bytes, whoever owns it; fine when there is none."""
        ...
