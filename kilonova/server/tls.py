"""A certificate authority of our own for ``--tls auto``: made once, kept in the state directory, ten years for the
authority, two for the server, renewed at a start that finds less than 60 days left or another set of names."""

import datetime
import ipaddress
import socket
from pathlib import Path
from typing import Any

from kilonova.server.state import write_text

_DAY = datetime.timedelta(days=1)


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
    return left > 60 * _DAY and have == wanted


def _issue(directory: Path, names: list[str]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    ca_path, ca_key_path = directory / "ca.pem", directory / "ca.key"
    if ca_path.exists() and ca_key_path.exists():
        ca = x509.load_pem_x509_certificate(ca_path.read_bytes())
        ca_key: Any = serialization.load_pem_private_key(ca_key_path.read_bytes(), None)
    else:
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = _certificate("Kilonova CA", ca_key.public_key(), "Kilonova CA", ca_key, 3650, None)
        write_text(ca_key_path, _pem(ca_key))
        write_text(ca_path, ca.public_bytes(serialization.Encoding.PEM).decode(), 0o644)
    key = ec.generate_private_key(ec.SECP256R1())
    cert = _certificate("Kilonova", key.public_key(), "Kilonova CA", ca_key, 730, names)
    write_text(directory / "server.key", _pem(key))
    write_text(
        directory / "server.pem", cert.public_bytes(serialization.Encoding.PEM).decode(), 0o644
    )


def _pem(key: Any) -> str:
    from cryptography.hazmat.primitives import serialization

    text: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return text.decode()


def _certificate(
    subject: str, public: Any, issuer: str, signer: Any, days: int, names: list[str] | None
) -> Any:
    """Make one certificate; names None: an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + days * _DAY)
        .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(_usage(names is None), critical=True)
    )
    if names is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general(n) for n in names]), critical=False
        )
    return builder.sign(signer, hashes.SHA256())


def _usage(authority: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
