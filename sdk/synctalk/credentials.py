"""Content credentials (C2PA): an mp4 says, signed, that an AI made it, with which avatar and which synctalk.

They are signed with ``c2pa.key`` and ``c2pa.pem`` (private key; certificates, leaf first) of ``keys.config_dir``. Put
your own there; otherwise a key and a certificate of nobody in particular are made on first use: players show such
credentials as intact, by an unknown signer. ``c2pa`` and ``cryptography`` are imported on first use.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synctalk._version import __version__
from synctalk.errors import MediaError
from synctalk.keys import config_dir, private_file
from synctalk.outputs import atomic_path

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

__all__ = ["Credentials", "attach_credentials", "check_credentials", "credentials_of", "read_credentials"]

_MADE_BY_AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_DAYS = 3650


def attach_credentials(path: str | os.PathLike[str], avatar_id: str, avatar_name: str) -> None:
    """Write credentials into an mp4, in place.

    Raises: MediaError: keys or file do not fit, or this installation lacks the libraries.
    """
    signer = _signer()
    import c2pa

    try:
        builder = c2pa.Builder(_manifest(avatar_id, avatar_name), c2pa.Context())
        with atomic_path(path) as signed, Path(path).open("rb") as film, signed.open("w+b") as out:
            builder.sign(signer, "video/mp4", film, out)
    except (c2pa.C2paError, OSError) as error:
        raise MediaError(f"{path}: content credentials cannot be written ({error})") from error


def check_credentials() -> None:
    """See that films can be signed; keys that are missing are made.

    Raises: SyncTalkError: no folder for keys, keys that cannot sign, or an installation that lacks the libraries.
    """
    _signer()


def read_credentials(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest store of a file, as C2PA's reader reports it. Raises: MediaError: none, or not readable."""
    import c2pa

    try:
        with c2pa.Reader(Path(path), context=c2pa.Context()) as reader:
            store: dict[str, Any] = json.loads(reader.json())
    except c2pa.C2paError as error:
        raise MediaError(f"{path} has no content credentials that can be read: {error}") from error
    return store


@dataclass(frozen=True)
class Credentials:
    """What a film's content credentials say."""

    is_intact: bool
    """Whether the film is, byte for byte, what was signed"""
    signer: str
    made_by: str
    """Program and version, such as ``synctalk 0.1.0``"""
    title: str
    is_made_by_ai: bool

    def __str__(self) -> str:
        state = "intact" if self.is_intact else "NOT intact: the film was changed after it was signed"
        kind = "made with AI, " if self.is_made_by_ai else ""
        return f"{state}; {kind}by {self.made_by}; signed by {self.signer}"


def credentials_of(path: str | os.PathLike[str]) -> Credentials | None:
    """The content credentials of a film; None where it has none."""
    try:
        store = read_credentials(path)
    except MediaError:
        return None
    manifest = store["manifests"][store["active_manifest"]]
    made_by = (manifest.get("claim_generator_info") or [{}])[0]
    actions = [
        action
        for assertion in manifest.get("assertions", [])
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"].get("actions", [])
    ]
    return Credentials(
        is_intact=store.get("validation_state") in ("Valid", "Trusted"),
        signer=str(manifest.get("signature_info", {}).get("issuer", "nobody who is named")),
        made_by=f"{made_by.get('name', 'an unnamed program')} {made_by.get('version', '')}".strip(),
        title=str(manifest.get("title", "")),
        is_made_by_ai=any(action.get("digitalSourceType") == _MADE_BY_AI for action in actions),
    )


def _manifest(avatar_id: str, avatar_name: str) -> dict[str, Any]:
    created = {
        "action": "c2pa.created",
        "digitalSourceType": _MADE_BY_AI,
        "softwareAgent": {"name": "synctalk", "version": __version__},
        "description": "made with AI",
    }
    return {
        "claim_generator_info": [{"name": "synctalk", "version": __version__}],
        "title": f"{avatar_name} speaks (made with AI)",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": "org.synctalk.avatar", "data": {"id": avatar_id, "name": avatar_name}},
        ],
    }


def _signer() -> Any:
    if find_spec("c2pa") is None or find_spec("cryptography") is None:
        raise MediaError(
            "no content credentials, because c2pa or cryptography is not installed: pip install c2pa-python cryptography, "
            "or write it without (save(..., credentials=False))"
        )
    import c2pa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    folder = config_dir()
    key = private_file(folder / "c2pa.key", _new_key)
    chain = private_file(folder / "c2pa.pem", lambda: _new_chain(key))
    try:
        algorithm = _algorithm(load_pem_private_key(key, None))
    except (ValueError, TypeError) as error:
        raise MediaError(
            f"{folder / 'c2pa.key'}: not a private key without password in PEM ({error})"
        ) from None
    try:
        return c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, None))
    except c2pa.C2paError as error:
        raise MediaError(
            f"no content credentials ({error}): check c2pa.key and c2pa.pem in {folder}"
        ) from error


def _algorithm(key: object) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {256: b"es256", 384: b"es384", 521: b"es512"}.get(key.key_size, b"es256")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    raise ValueError(f"{type(key).__name__} cannot sign content credentials")


def _new_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    return _pem(ec.generate_private_key(ec.SECP256R1()))


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _new_chain(key: bytes) -> bytes:
    """Certificates for a key: its own, and that of a root whose key is forgotten at once."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    own = load_pem_private_key(key, None)
    if not isinstance(own, ec.EllipticCurvePrivateKey):
        raise MediaError(
            f"{config_dir() / 'c2pa.pem'} is missing: put the certificates of your c2pa.key there"
        )
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = _certificate("SyncTalk local root", root_key, None, root_key)
    leaf = _certificate("SyncTalk local signer", own, root, root_key)
    return leaf.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)


def _certificate(
    name: str, key: EllipticCurvePrivateKey, issuer: Certificate | None, issuer_key: EllipticCurvePrivateKey
) -> Certificate:
    """A root's where ``issuer`` is None, otherwise a signer's, as C2PA demands them."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SyncTalk (local, not verified)"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    is_root, now = issuer is None, datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if not is_root:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())
