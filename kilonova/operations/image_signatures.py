"""Signatures of images, verified before a server is made of one, with certificates from a folder of the configuration.

An image is signed by its properties img_signature, img_signature_hash_method, img_signature_key_type and
img_signature_certificate_uuid; the certificate is the file ``<uuid>.pem`` of ``image_certificates_dir``. Trusted
certificates (2.63) are such ids too: the signer is one of them, or was certified by one. What is verified are the bytes
whose checksum the record keeps, and that a host compares. source: Nova, "Image Signature Certificate Validation";
cursive (hash methods, key types, RSA-PSS with the longest salt).
"""

import base64
import binascii
import datetime
import threading
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa, utils

from kilonova.common.errors import BadRequest, NotImplementedHere
from kilonova.common.ids import is_uuid
from kilonova.objects.image import Image
from kilonova.operations.services import Services

SIGNATURE, METHOD = "img_signature", "img_signature_hash_method"
KEY_TYPE, CERTIFICATE = "img_signature_key_type", "img_signature_certificate_uuid"
PROPERTIES = (SIGNATURE, METHOD, KEY_TYPE, CERTIFICATE)
VERIFIED = "signature_verified"
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA-224": hashes.SHA224(),
    "SHA-256": hashes.SHA256(),
    "SHA-384": hashes.SHA384(),
    "SHA-512": hashes.SHA512(),
}
_KEYS: dict[str, type] = {
    "RSA-PSS": rsa.RSAPublicKey,
    "DSA": dsa.DSAPublicKey,
    **{
        f"ECC_{curve}": ec.EllipticCurvePublicKey
        for curve in ("SECT571K1", "SECT409K1", "SECT571R1", "SECT409R1", "SECP521R1", "SECP384R1")
    },
}
PIECE = 1 << 20
MOST_KNOWN = 256
_lock = threading.Lock()
_known: dict[tuple[str, str, str], None] = {}  # (checksum, signature, certificate) that were right


def verified(services: Services, image: Image, trusted: Sequence[str] | None) -> Image:
    """Return the image without the properties of its signature, once that was verified; an unsigned one as it is.

    trusted: ids of certificates; the image must be signed then. BadRequest: no folder, no signature, a certificate that
    is unknown, out of date or not trusted, a signature that is wrong. Reads the image's bytes the first time.
    """
    folder = services.setting("image_certificates_dir", None)
    signed = [name for name in PROPERTIES if name in image.properties]
    if folder is None:
        if trusted:
            raise NotImplementedHere(
                "trusted_image_certificates: image signatures are not checked by this cloud: it has no certificates."
            )
        return image  # its signature's properties are refused by name where they are read
    if not signed and not trusted:
        return image
    missing = [name for name in PROPERTIES if name not in image.properties]
    if missing:
        raise BadRequest(f"Signature verification for the image failed: it has no {missing[0]}.")
    signer = _load(Path(folder), image.properties[CERTIFICATE])
    now = datetime.datetime.fromtimestamp(services.now(), datetime.UTC)
    if trusted:
        _check_trusted(Path(folder), signer, trusted, now)
    elif not signer.not_valid_before_utc <= now <= signer.not_valid_after_utc:
        raise BadRequest(
            "Signature verification for the image failed: the certificate is out of date."
        )
    _check_signature(services, image, signer)
    kept = {k: v for k, v in image.properties.items() if k not in PROPERTIES}
    return image.replace(properties=kept)


def for_volume(services: Services, image: Image) -> Image:
    """Return the image as ``verified`` does, saying in the property ``signature_verified`` whether it was signed.

    A cloud without certificates says nothing, and an image's own word for it counts for nothing.
    source: Cinder, volume_image_metadata.
    """
    found = verified(services, image, None)
    kept = {k: v for k, v in found.properties.items() if k != VERIFIED}
    if services.setting("image_certificates_dir", None) is not None:
        kept[VERIFIED] = str(any(name in image.properties for name in PROPERTIES))
    return found.replace(properties=kept)


def _load(folder: Path, name: str) -> x509.Certificate:
    if is_uuid(name):
        try:
            return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        except FileNotFoundError:
            pass
        except ValueError as exc:
            raise BadRequest(f"Certificate {name} cannot be read.") from exc
    raise BadRequest(f"Certificate {name[:60]!r} is not known to this cloud.")


def _check_trusted(
    folder: Path, signer: x509.Certificate, trusted: Sequence[str], now: datetime.datetime
) -> None:
    """Go from the signer to its issuers among the trusted ones; every one must be in its time."""
    anchors = [_load(folder, name) for name in trusted]
    current = signer
    for _ in range(len(anchors) + 1):
        if not current.not_valid_before_utc <= now <= current.not_valid_after_utc:
            break
        if current in anchors:
            return
        issuer = next((a for a in anchors if _issued(a, current)), None)
        if issuer is None:
            break
        current = issuer
    raise BadRequest(
        "Certificate chain building failed: the image's certificate is not one of the trusted ones, nor certified "
        "by one that is valid now."
    )


def _issued(issuer: x509.Certificate, issued: x509.Certificate) -> bool:
    """Tell whether a certificate of an authority signed another one."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        issued.verify_directly_issued_by(issuer)
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        return False
    return constraints.ca


def _check_signature(services: Services, image: Image, signer: x509.Certificate) -> None:
    """Verify the bytes' signature; what was right before is known by the checksum of the bytes."""
    given = image.properties
    kind, method = given[KEY_TYPE].upper(), given[METHOD].upper()
    if method not in _HASHES or kind not in _KEYS:
        raise BadRequest(
            f"Signature verification for the image failed: {method[:20]}, {kind[:20]} is not taken."
        )
    key = signer.public_key()
    if not isinstance(key, _KEYS[kind]):
        raise BadRequest(
            "Signature verification for the image failed: the certificate has another kind of key."
        )
    mark = (image.os_hash_value or image.id, given[SIGNATURE], given[CERTIFICATE])
    with _lock:
        if mark in _known:
            return
    try:
        signature = base64.b64decode(given[SIGNATURE], validate=True)
        _verify(key, signature, _digest(services, image.id, _HASHES[method]), _HASHES[method])
    except (InvalidSignature, binascii.Error, ValueError) as exc:
        raise BadRequest("Signature verification for the image failed.") from exc
    with _lock:
        while len(_known) >= MOST_KNOWN:
            _known.pop(next(iter(_known)))
        _known[mark] = None


def _digest(services: Services, image_id: str, method: hashes.HashAlgorithm) -> bytes:
    digest = hashes.Hash(method)
    with services.images.open(image_id) as data:
        while piece := data.read(PIECE):
            digest.update(piece)
    return digest.finalize()


def _verify(key: object, signature: bytes, digest: bytes, method: hashes.HashAlgorithm) -> None:
    """Raise InvalidSignature unless the signature of a digest is the key's."""
    done = utils.Prehashed(method)
    if isinstance(key, rsa.RSAPublicKey):
        pss = padding.PSS(padding.MGF1(method), padding.PSS.MAX_LENGTH)
        key.verify(signature, digest, pss, done)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, digest, ec.ECDSA(done))
    elif isinstance(key, dsa.DSAPublicKey):
        key.verify(signature, digest, done)
