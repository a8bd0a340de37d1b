"""Keys of the web service: who may ask, by a name that may stand in a log."""

import hashlib
import hmac
import re
from pathlib import Path

from densityclip.errors import UserError

NOBODY = "anyone on this machine"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_SHORTEST = 24


class ApiKeys:
    """Names and hashes of keys; the keys themselves are not kept."""

    def __init__(self, keys: dict[str, str] | None = None) -> None:
        self._hashes = {name: _hash(key) for name, key in (keys or {}).items()}

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def owner(self, key: str | None) -> str | None:
        """Name of a key; None for one that is not known. Without any keys, everyone is `NOBODY`."""
        if not self._hashes:
            return NOBODY
        # All are compared, in a time that says nothing about how much is right.
        asked = _hash(key or "")
        matching = [name for name, known in self._hashes.items() if hmac.compare_digest(known, asked)]
        return matching[0] if matching else None


def read_api_keys(path: Path) -> ApiKeys:
    """Read a file of keys: a name and a key a line, separated by blanks; `#` begins a comment.

    Raises:
        UserError: It cannot be read, others may read it, or a line is no name and key of 24 characters or more.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise UserError(f"{path} can be read by others", f"take their right away: chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__})", "give a text file of names and keys"
        ) from error
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        parts = line.partition("#")[0].split()
        if not parts:
            continue
        if len(parts) != 2 or not _NAME.fullmatch(parts[0]) or len(parts[1]) < _SHORTEST or parts[0] in keys:
            raise UserError(
                f"line {number} of {path} is no new name and key of {_SHORTEST} characters or more",
                "make a key: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
        keys[parts[0]] = parts[1]
    if not keys:
        raise UserError(f"{path} holds no key", "write a name and a key in a line")
    return ApiKeys(keys)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
