"""What the objects of an exam are called: UIDs that derive from their sources and the model, never from chance."""

import hashlib
import uuid

from densityclip import __version__
from densityclip.artifacts import hash_json
from densityclip.model.bundle import Bundle

PRODUCT = "DensityCLIP"


def derived_uid(*words: str) -> str:
    """A UID of the 2.25 arc, derived from the words alone (DICOM PS3.5, annex B.2).

    The first 128 bits of the SHA-256 of the words are taken as a name-based UUID. The same words in the same order give
    the same UID on every machine.
    """
    digest = hashlib.sha256()
    for word in ("densityclip deliver", *words):
        # The length goes first: "a", "bc" and "ab", "c" are different names.
        digest.update(len(word).to_bytes(8, "big") + word.encode())
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"


def model_identity(bundle: Bundle) -> str:
    """SHA-256 of everything that decides an answer: each file of the bundle, and this package's version."""
    return hash_json({"bundle": bundle.provenance["hashes"], "densityclip": __version__})


def model_version(bundle: Bundle) -> str:
    """Version of the package that trained the model and the first 12 digits of its weights' hash."""
    return f"{bundle.provenance.get('densityclip', 'unknown')}-{bundle.model_hash[:12]}"
