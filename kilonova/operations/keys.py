"""Key pairs: make, check and fingerprint keys. Nothing here touches a database.

source: RFC 4253 section 6.6 (SSH public keys); Nova: MD5 fingerprints of SSH keys, SHA-1 of X.509 certificates.
"""

import base64
import binascii
import datetime
import hashlib
from dataclasses import dataclass

from kilonova.common.errors import BadRequest
from kilonova.common.secret import Secret

RSA_BITS = 2048
YEARS_10 = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class Made:
    """A new key pair; the private half is told once and never kept."""

    public_key: str
    fingerprint: str
    private_key: Secret


def _colons(digest: bytes) -> str:
    return ":".join(f"{b:02x}" for b in digest)


def ssh_fingerprint(public_key: str) -> str:
    """Return the MD5 fingerprint of an SSH public key. Raises BadRequest when it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        load_ssh_public_key(public_key.encode())
        blob = base64.b64decode(public_key.split(" ")[1])
    except (ValueError, IndexError, TypeError, UnsupportedAlgorithm, binascii.Error) as exc:
        raise BadRequest("Keypair data is invalid: failed to generate fingerprint") from exc
    return _colons(hashlib.md5(blob, usedforsecurity=False).digest())


def x509_fingerprint(certificate: str) -> str:
    """Return the SHA-1 fingerprint of a certificate in PEM. Raises BadRequest when it is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        cert = x509.load_pem_x509_certificate(certificate.encode())
    except (ValueError, TypeError) as exc:
        raise BadRequest(
            "Keypair data is invalid: failed to generate X509 fingerprint. It is no certificate in PEM."
        ) from exc
    return _colons(cert.fingerprint(hashes.SHA1()))  # noqa: S303 - a name, not a proof


def fingerprint(public_key: str, type_: str) -> str:
    """Return the fingerprint of a public key of type ssh or x509. Raises BadRequest."""
    return x509_fingerprint(public_key) if type_ == "x509" else ssh_fingerprint(public_key)


def make(type_: str, user_id: str) -> Made:
    """Make a key pair: RSA, 2048 bits; for x509 a client certificate of the user for 10 years."""
    return _make_x509(user_id) if type_ == "x509" else _make_ssh()


def _make_ssh() -> Made:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    private = key.private_bytes(
        s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH).decode()
    public = f"{public} Generated-by-Nova"
    return Made(public, ssh_fingerprint(public), Secret(private))


def _make_x509(user_id: str) -> Made:
    """The private half is a PKCS#12 container without a password, in base64. source: Nova, x509 key pairs."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import pkcs12
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user_id[:64])])
    upn = f"{user_id}@localhost".encode()
    other = x509.OtherName(
        x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c" + _der_length(len(upn)) + upn
    )
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + YEARS_10)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        .add_extension(x509.SubjectAlternativeName([other]), False)
        .sign(key, hashes.SHA256())
    )
    public = cert.public_bytes(s.Encoding.PEM).decode()
    box = pkcs12.serialize_key_and_certificates(None, key, cert, None, s.NoEncryption())
    return Made(public, x509_fingerprint(public), Secret(base64.b64encode(box).decode()))


def _der_length(n: int) -> bytes:
    if n < 0x80:
        return bytes([n])
    size = (n.bit_length() + 7) // 8
    return bytes([0x80 | size]) + n.to_bytes(size, "big")
