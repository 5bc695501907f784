"""The config drive: an ISO 9660 file labelled config-2 with the same documents as the metadata service.

source: Nova user documentation, "Config drives".
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kilonova.agent.metadata import documents
from kilonova.common.errors import KilonovaError
from kilonova.objects.guest import DeviceAddress, MetadataDocument

MAX_SIZE = 64 * 1024 * 1024  # bytes; Nova's limit for a config drive


class ConfigDriveError(KilonovaError):
    """The config drive could not be written."""

    code = "config_drive"


def build(
    document: MetadataDocument,
    devices: Iterable[DeviceAddress],
    target: Path,
    admin_password: str | None = None,
) -> Path:
    """Write the config drive to ``target`` (0640, replaced atomically); doing it again gives the same content.

    admin_password: overrides the document's; only the first build has one.
    Raises ConfigDriveError when genisoimage is missing or refuses.
    """
    program = shutil.which("genisoimage") or shutil.which("mkisofs") or shutil.which("xorrisofs")
    if program is None:
        raise ConfigDriveError("The host cannot make a config drive", program="genisoimage")
    if admin_password is not None:
        document = document.replace(admin_password=admin_password)
    with tempfile.TemporaryDirectory(prefix="kilonova-cd-", dir=target.parent) as scratch:
        tree = Path(scratch) / "tree"
        for name, content in documents.config_drive_files(document, tuple(devices)).items():
            file = tree / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        image = Path(scratch) / "out.iso"
        arguments = ["-o", str(image), "-ldots", "-allow-lowercase", "-allow-multidot", "-l"]
        arguments += ["-publisher", "Kilonova", "-quiet", "-J", "-r", "-V", "config-2", str(tree)]
        _run([program, *arguments])
        if image.stat().st_size > MAX_SIZE:
            raise ConfigDriveError("The config drive is too large", size=image.stat().st_size)
        os.chmod(image, 0o640)
        os.replace(image, target)
    return target


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ConfigDriveError("The host cannot make a config drive", error=str(exc)) from exc
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace")[-400:]
        raise ConfigDriveError("The host cannot make a config drive", error=text)
