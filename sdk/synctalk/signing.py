"""Signatures of bundles: who made an avatar, and that not one byte of it was changed since.

The member ``signature.json`` holds an Ed25519 signature over ``manifest.json``, which holds the sha256 of every other
member. A zip must besides be byte for byte what synctalk writes, so that headers and gaps hide nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from synctalk.bundle import SIGNATURE, packed_zip, read_members, verify_bundle, write_members
from synctalk.errors import BundleError, SyncTalkError
from synctalk.keys import config_dir, need_cryptography, private_file
from synctalk.manifest import MANIFEST

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["check_signature", "sign_bundle"]

_CONTEXT = b"synctalk bundle signature 1\n"
_AGAIN = "do not use it; get the bundle again from whom you trust"


def sign_bundle(path: str | Path, key: str | Path | None = None) -> str:
    """Sign a bundle in place; the public key, 64 hexadecimal digits, to be given to those who check.

    key: a PEM file with an Ed25519 private key; the user's own, made on first use (``keys.config_dir``), if left out.
    Raises: BundleError: the bundle is not sound; SyncTalkError: no such key, or ``cryptography`` is missing.
    """
    need_cryptography("signing")
    path = Path(path)
    private = _private_key(key)
    _check_sound(path)
    members = {name: content for name, content in read_members(path).items() if name != SIGNATURE}
    public = private.public_key().public_bytes_raw().hex()
    signature = private.sign(_CONTEXT + members[MANIFEST]).hex()
    write_members(path, members | {SIGNATURE: _statement(public, signature)})
    return public


def check_signature(path: str | Path, public_key: str | None = None) -> str:
    """The public key, 64 hexadecimal digits, that a bundle was signed with, after checking every byte.

    public_key: the one to expect; without, any maker is accepted, and only damage since the signing is found.
    Raises: BundleError: not signed, signed by another, or changed; SyncTalkError: ``cryptography`` is missing.
    """
    need_cryptography("checking a signature")
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    path = Path(path)
    _check_sound(path)
    members = read_members(path)
    if SIGNATURE not in members:
        raise BundleError(f"{path} is not signed: ask its maker for: synctalk sign {path.name}")
    public, signature = _read_statement(members[SIGNATURE])
    if public_key is not None and public_key.strip().lower() != public:
        raise BundleError(f"{path} was signed with the key {public}, not with {public_key.strip()}: {_AGAIN}")
    try:
        verifier = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        verifier.verify(bytes.fromhex(signature), _CONTEXT + members[MANIFEST])
    except (InvalidSignature, ValueError):
        raise BundleError(f"{path}: the signature is not one of its manifest: {_AGAIN}") from None
    if path.is_file() and path.read_bytes() != packed_zip(members):
        raise BundleError(f"{path}: bytes between or around its members were changed: {_AGAIN}")
    return public


def _check_sound(path: Path) -> None:
    for finding in verify_bundle(path):
        raise BundleError(f"{path} is not sound: {finding}")


def _private_key(path: str | Path | None) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    def made() -> bytes:
        return Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    if path is None:
        path = config_dir() / "signing.key"
        content = private_file(path, made)
    elif Path(path).is_file():
        content = Path(path).read_bytes()
    else:
        raise SyncTalkError(f"there is no key at {path}: leave --key out to use your own, made on first use")
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise SyncTalkError(f"{path}: not a private key without password in PEM ({error})") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SyncTalkError(f"{path}: not an Ed25519 key: make one with: openssl genpkey -algorithm ed25519")
    return key


def _statement(public: str, signature: str) -> bytes:
    values = {"algorithm": "ed25519", "public_key": public, "signature": signature}
    return (json.dumps(values, indent=2) + "\n").encode()


def _read_statement(content: bytes) -> tuple[str, str]:
    """Public key and signature; only the very bytes that ``_statement`` writes are one."""
    try:
        values = json.loads(content)
        public, signature = values["public_key"], values["signature"]
        is_right = _statement(public, signature) == content
    except (ValueError, KeyError, TypeError, RecursionError):
        is_right = False
    if not is_right:
        raise BundleError(f"{SIGNATURE}: not what synctalk writes: {_AGAIN}")
    return public, signature
