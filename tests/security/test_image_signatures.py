"""Signatures of images and trusted certificates (2.63), with keys made for the test, on a whole simulated cloud."""

import base64
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kilonova.common.config import Settings
from kilonova.common.ids import new_uuid
from tests.whole import Whole, running, until

S = "/compute/v2.1/servers"
BYTES = bytes(8192)
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)


@dataclass
class Signer:
    """A certificate in the folder, with its key."""

    id: str
    key: Any
    certificate: x509.Certificate


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def signer(
    folder: Path, key: Any, by: Signer | None = None, *, ca: bool = False, ends: Any = DAY
) -> Signer:
    """Make a certificate, signed by itself or by another, and put it into the folder."""
    me, issuer = new_uuid(), by
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(me))
        .issuer_name(name_of(me) if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 10 * DAY)
        .not_valid_after(NOW + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    certificate = builder.sign(key if issuer is None else issuer.key, hashes.SHA256())
    (folder / f"{me}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return Signer(me, key, certificate)


@dataclass
class World:
    whole: Whole
    root: Signer
    below: Signer  # certified by root
    curve: Signer
    old: Signer  # out of date


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("certificates")
    root = signer(folder, rsa.generate_private_key(65537, 2048), ca=True)
    below = signer(folder, rsa.generate_private_key(65537, 2048), root)
    curve = signer(folder, ec.generate_private_key(ec.SECP384R1()))
    old = signer(folder, rsa.generate_private_key(65537, 2048), ends=-DAY)
    with running(settings=Settings(image_certificates_dir=str(folder))) as whole:
        yield World(whole, root, below, curve, old)


def sign(by: Signer, data: bytes = BYTES) -> dict[str, str]:
    """Return the properties of a signature."""
    if isinstance(by.key, rsa.RSAPrivateKey):
        kind = "RSA-PSS"
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
        made = by.key.sign(data, pss, hashes.SHA256())
    else:
        kind, made = "ECC_SECP384R1", by.key.sign(data, ec.ECDSA(hashes.SHA256()))
    return {
        "img_signature": base64.b64encode(made).decode(),
        "img_signature_hash_method": "SHA-256",
        "img_signature_key_type": kind,
        "img_signature_certificate_uuid": by.id,
    }


def image(whole: Whole, properties: dict[str, str]) -> str:
    asked = {"name": "signed", "disk_format": "raw", "container_format": "bare", **properties}
    made = str(whole.call("POST", "/image/v2/images", asked).json["id"])
    head = {"Content-Type": "application/octet-stream"}
    path = f"/image/v2/images/{made}/file"
    assert whole.call("PUT", path, BYTES, headers=head).status == 204
    return made


def boot(whole: Whole, image_id: str, trusted: list[str] | None = None) -> Any:
    body: dict[str, Any] = {"name": "s", "flavorRef": "42", "imageRef": image_id}
    body["networks"] = "none"
    if trusted is not None:
        body["trusted_image_certificates"] = trusted
    return whole.call("POST", S, {"server": body}, version="2.63")


def test_signed_by_a_trusted_one_or_by_whom_it_certified(world: World) -> None:
    whole = world.whole
    for by, trusted in (
        (world.below, [world.below.id]),
        (world.below, [world.root.id]),
        (world.curve, [world.root.id, world.curve.id]),
        (world.curve, None),
    ):
        got = boot(whole, image(whole, sign(by)), trusted)
        assert got.status == 202, got
        server = got.json["server"]["id"]
        assert whole.settled(server).json["server"]["status"] == "ACTIVE"
        whole.gone(server)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("unsigned", "has no img_signature"),
        ("stranger", "chain building failed"),
        ("bytes", "Signature verification for the image failed"),
        ("old", "chain building failed"),
        ("half", "has no img_signature_key_type"),
        ("unknown", "not known to this cloud"),
        ("path", "not known to this cloud"),
        ("kind", "another kind of key"),
    ],
)
def test_what_is_refused(world: World, case: str, says: str) -> None:
    whole, properties, trusted = world.whole, sign(world.below), [world.root.id]
    if case == "unsigned":
        properties = {}
    elif case == "stranger":
        trusted = [world.curve.id]
    elif case == "bytes":
        properties = sign(world.below, BYTES + b"!")
    elif case == "old":
        properties, trusted = sign(world.old), [world.old.id]
    elif case == "half":
        del properties["img_signature_key_type"]
    elif case == "unknown":
        properties["img_signature_certificate_uuid"] = new_uuid()
    elif case == "path":
        properties["img_signature_certificate_uuid"] = "../../etc/passwd"
    elif case == "kind":
        properties["img_signature_key_type"] = "ECC_SECP384R1"
    got = boot(whole, image(whole, properties), trusted)
    assert got.status == 400 and says in got.raw.decode(), got


def test_a_wrong_signature_is_refused_without_trusted_ones_too(world: World) -> None:
    got = boot(world.whole, image(world.whole, sign(world.below, b"other")))
    assert got.status == 400


def test_a_rebuild_asks_again(world: World) -> None:
    """The server's certificates hold for its next image, until it gets others."""
    whole = world.whole
    server = boot(whole, image(whole, sign(world.below)), [world.root.id]).json["server"]["id"]
    whole.settled(server)

    def rebuild(image_id: str, **more: Any) -> int:
        body = {"rebuild": {"imageRef": image_id, **more}}
        got = whole.call("POST", f"{S}/{server}/action", body, version="2.63")
        whole.settled(server)
        return int(got.status)

    other = image(whole, sign(world.curve))
    assert rebuild(other) == 400
    assert rebuild(whole.image()) == 400
    assert rebuild(other, trusted_image_certificates=[world.curve.id]) == 202
    assert rebuild(whole.image(), trusted_image_certificates=None) == 202
    whole.gone(server)


def volume_backed(image_id: str) -> dict[str, Any]:
    """Return a root disk on a volume that is made of an image."""
    return {
        "boot_index": 0,
        "uuid": image_id,
        "source_type": "image",
        "destination_type": "volume",
        "volume_size": 1,
        "delete_on_termination": True,
    }


def test_volumes_made_of_images(world: World) -> None:
    """SM-27: what a volume is made of, or written anew from, is verified before; data that are there cannot be."""
    whole, good = world.whole, image(world.whole, sign(world.below))
    bad = image(whole, sign(world.below, BYTES + b"!"))

    def create(disk: dict[str, Any], *more: dict[str, Any]) -> Any:
        body: dict[str, Any] = {"name": "s", "flavorRef": "42", "networks": "none"}
        body["block_device_mapping_v2"] = [disk, *more]
        body["trusted_image_certificates"] = [world.root.id]
        return whole.call("POST", S, {"server": body}, version="2.93")

    assert create(volume_backed(bad)).status == 400
    assert create(volume_backed(whole.image())).status == 400
    assert create(volume_backed(good), {**volume_backed(bad), "boot_index": -1}).status == 400
    server = create(volume_backed(good)).json["server"]["id"]
    assert whole.settled(server).json["server"]["status"] == "ACTIVE"
    path = f"{S}/{server}/os-volume_attachments"
    root = whole.call("GET", path).json["volumeAttachments"][0]["volumeId"]
    asked = {"volume": {"size": 1, "imageRef": good}}
    head = {"OpenStack-API-Version": "volume 3.70"}
    made = whole.call("POST", "/volume/v3/volumes", asked, headers=head).json["volume"]["id"]
    path = f"/volume/v3/volumes/{made}"

    def made_it() -> bool | None:
        shown = whole.call("GET", path, headers=head).json["volume"]
        return shown["status"] == "available" or None

    until(made_it)
    there = {**volume_backed(made), "source_type": "volume"}
    assert "there already" in create(there).raw.decode()

    def rebuild(image_id: str, **more: Any) -> int:
        body = {"rebuild": {"imageRef": image_id, **more}}
        got = whole.call("POST", f"{S}/{server}/action", body, version="2.93")
        whole.settled(server)
        return int(got.status)

    other = image(whole, sign(world.curve))
    assert [rebuild(i) for i in (bad, other, whole.image())] == [400, 400, 400]
    assert rebuild(other, trusted_image_certificates=[world.curve.id]) == 202
    shown = whole.call("GET", f"/volume/v3/volumes/{root}", headers=head).json["volume"]
    assert shown["volume_image_metadata"]["image_id"] == other
    whole.gone(server)


def test_without_a_folder_it_is_said() -> None:
    with running() as whole:
        assert boot(whole, whole.image(), [new_uuid()]).status == 501
        key = rsa.generate_private_key(65537, 2048)
        unknown = Signer(new_uuid(), key, None)  # type: ignore[arg-type]
        got = boot(whole, image(whole, sign(unknown)))
        assert got.status == 400 and "img_signature" in got.raw.decode()


def test_volumes_that_the_block_storage_api_makes(world: World) -> None:
    """SM-27: POST /volumes and os-reimage refuse an image whose signature is wrong, as Cinder does."""
    whole, head = world.whole, {"OpenStack-API-Version": "volume 3.70"}
    good = image(whole, sign(world.curve))
    bad, old = image(whole, sign(world.curve, BYTES + b"!")), image(whole, sign(world.old))

    def call(path: str, body: dict[str, Any]) -> Any:
        return whole.call("POST", f"/volume/v3/volumes{path}", body, headers=head)

    for wrong in (bad, old):
        got = call("", {"volume": {"size": 1, "imageRef": wrong}})
        assert got.status == 400 and "Signature verification" in got.raw.decode()
    made = call("", {"volume": {"size": 1, "imageRef": good}})
    assert made.status == 202
    volume = made.json["volume"]["id"]

    def rests() -> Any:
        shown = whole.call("GET", f"/volume/v3/volumes/{volume}", headers=head).json["volume"]
        return shown if shown["status"] == "available" else None

    shown = until(rests)
    assert "img_signature" not in shown["volume_image_metadata"]
    assert shown["volume_image_metadata"]["signature_verified"] == "True"
    liar = image(whole, {"signature_verified": "True"})
    made = call("", {"volume": {"size": 1, "imageRef": liar}}).json["volume"]["id"]
    path = f"/volume/v3/volumes/{made}"
    kept = whole.call("GET", path, headers=head).json["volume"]["volume_image_metadata"]
    assert kept["signature_verified"] == "False"  # whatever an unsigned image says of itself
    for wrong in (bad, old):
        assert call(f"/{volume}/action", {"os-reimage": {"image_id": wrong}}).status == 400
    assert call(f"/{volume}/action", {"os-reimage": {"image_id": good}}).status == 202
    assert until(rests)["volume_image_metadata"]["signature_verified"] == "True"
