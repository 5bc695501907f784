"""X.509 certificates of our own authorities: one form for all, on elliptic curves. PEM everywhere.

source: RFC 5280.
"""

import datetime
import ipaddress
from dataclasses import dataclass
from typing import Any

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Wanted:
    """One certificate. names: hosts and addresses, None: an authority. both_ends: of a connection."""

    subject: str
    issuer: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    names: list[str] | None = None
    both_ends: bool = False


def lasting(subject: str, issuer: str, days: float, names: list[str] | None) -> Wanted:
    """Return a certificate that is good from yesterday on, for so many days from now."""
    now = datetime.datetime.now(datetime.UTC)
    return Wanted(subject, issuer, now - DAY, now + days * DAY, names)


def new_key() -> Any:
    """Return a new private key."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Any) -> str:
    """Return a private key as text, to be kept where nobody else reads it."""
    from cryptography.hazmat.primitives import serialization

    text: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return text.decode()


def load_key(pem: str) -> Any:
    """Read a private key. ValueError when it is none."""
    from cryptography.hazmat.primitives import serialization

    return serialization.load_pem_private_key(pem.encode(), None)


def pem_of(certificate: Any) -> str:
    """Return a certificate, or a request for one, as text."""
    from cryptography.hazmat.primitives import serialization

    text: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    return text.decode()


def make(wanted: Wanted, public: Any, signer: Any) -> Any:
    """Return a certificate of a public key, signed by a private one."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority = wanted.names is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(wanted.subject))
        .issuer_name(_name(wanted.issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(wanted.not_before)
        .not_valid_after(wanted.not_after)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(_usage(authority, wanted.both_ends), critical=True)
    )
    if wanted.names is not None:
        names = x509.SubjectAlternativeName([_general(n) for n in wanted.names])
        builder = builder.add_extension(names, critical=False)
    if wanted.both_ends:
        ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(ends), critical=False)
    return builder.sign(signer, hashes.SHA256())


def request(subject: str, key: Any) -> str:
    """Return a request for a certificate of a key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(subject))
    return pem_of(builder.sign(key, hashes.SHA256()))


def requested_key(pem: str) -> Any:
    """Return the public key of a request. ValueError: it is none, or not signed by that key."""
    from cryptography import x509

    asked = x509.load_pem_x509_csr(pem.encode())
    if not asked.is_signature_valid:
        raise ValueError("the request is not signed by its own key")
    return asked.public_key()


def _name(text: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _usage(authority: bool, both_ends: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=both_ends,  # QEMU 7.2 wants it, for ciphers that are not used with these keys
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
