"""A certificate authority of our own for ``--tls auto``: made once, kept in the state directory, ten years for the
authority, two for the server, renewed at a start that finds less than 60 days left or another set of names."""

import datetime
import socket
from pathlib import Path

from kilonova.common.certificates import DAY, key_pem, lasting, load_key, make, new_key, pem_of
from kilonova.server.state import write_text

CA = "Kilonova CA"


def ensure(directory: Path, names: list[str]) -> tuple[str, str, str]:
    """Return paths of certificate, key and authority; make what is missing. names: hosts and addresses to serve."""
    directory.mkdir(mode=0o700, exist_ok=True)
    cert, key, ca = directory / "server.pem", directory / "server.key", directory / "ca.pem"
    wanted = sorted({*names, "localhost", "127.0.0.1", "::1", socket.gethostname()})
    if not (ca.exists() and cert.exists() and key.exists() and _still_good(cert, wanted)):
        _issue(directory, wanted)
    return str(cert), str(key), str(ca)


def _still_good(path: Path, wanted: list[str]) -> bool:
    from cryptography import x509

    cert = x509.load_pem_x509_certificate(path.read_bytes())
    left = cert.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    have = sorted(str(n.value) for n in names)
    return left > 60 * DAY and have == wanted


def _issue(directory: Path, names: list[str]) -> None:
    ca_path, ca_key_path = directory / "ca.pem", directory / "ca.key"
    if ca_path.exists() and ca_key_path.exists():
        ca_key = load_key(ca_key_path.read_text())
    else:
        ca_key = new_key()
        ca = make(lasting(CA, CA, 3650, None), ca_key.public_key(), ca_key)
        write_text(ca_key_path, key_pem(ca_key))
        write_text(ca_path, pem_of(ca), 0o644)
    key = new_key()
    cert = make(lasting("Kilonova", CA, 730, names), key.public_key(), ca_key)
    write_text(directory / "server.key", key_pem(key))
    write_text(directory / "server.pem", pem_of(cert), 0o644)
