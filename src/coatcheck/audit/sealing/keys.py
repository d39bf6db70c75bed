"""The key that signs seals: ed25519, in a file of its own outside the database.

The public half lies beside it. Whoever verifies needs that half alone, from a place that the database's administrator
cannot write.
"""

import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from coatcheck.config import SettingsError

_ELSEWHERE: Final = (
    "let it be written, name another place with COATCHECK_SEAL_DIR, or seal nothing: COATCHECK_SEAL_INTERVAL_MS=0"
)


class SealingKey:
    """Signs seals. `public_hex` names it in each of them."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_hex = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, content: bytes) -> bytes:
        """Sign the content of a seal: 64 bytes."""
        return self._key.sign(content)


def sealing_key_of(path: Path) -> SealingKey:
    """Read the key, or make it when there is none: readable by its owner alone, its public half in `.pub` beside it.

    Any number of processes may ask at once: the first file wins. Raises SettingsError when it cannot be used.
    """
    public = path.with_suffix(".pub")
    try:
        if not path.exists() and not public.exists():
            _make(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        cure = f"restore it, or move {public} away for a new pair" if _is_there(public) else _ELSEWHERE
        raise SettingsError([f"{path}: the sealing key cannot be used: {error.strerror}; {cure}"]) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            [f"{path}: not a private key in PEM form: restore it, or move both halves away for new ones"]
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError([f"{path}: not an ed25519 key; make one with `openssl genpkey -algorithm ed25519`"])
    half = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        if not public.exists():
            _write_whole(public, half, 0o644)
        is_its_half = public.read_bytes() == half
    except OSError as error:
        raise SettingsError([f"{public}: the public key cannot be kept: {error.strerror}"]) from error
    if not is_its_half:
        raise SettingsError([f"{public}: not the public half of {path}: move it away, and keep it for earlier seals"])
    return SealingKey(key)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # nobody may even look
        return False


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    _write_whole(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)


def _write_whole(path: Path, content: bytes, mode: int) -> None:
    """Write a file that was not there: whole or not at all, and never over another process's."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
