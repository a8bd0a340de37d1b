"""What a store of exams holds: states, jobs, deliveries, and the tables that they are rows of."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from densityclip.dicom.elements import PARSE_ERRORS
from densityclip.dicom.inflate import parse_header
from densityclip.reasons import Reason, Refused

SCHEMA_VERSION = 1
TABLES = """
CREATE TABLE IF NOT EXISTS exams (
    study TEXT PRIMARY KEY, state TEXT NOT NULL, sender TEXT NOT NULL, revision INTEGER NOT NULL,
    last_arrival REAL NOT NULL, starts INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0, reason TEXT, detail TEXT, done_at REAL);
CREATE TABLE IF NOT EXISTS instances (
    study TEXT NOT NULL, sop TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (study, sop));
CREATE TABLE IF NOT EXISTS objects (
    number INTEGER PRIMARY KEY AUTOINCREMENT, sop TEXT NOT NULL UNIQUE, study TEXT NOT NULL, revision INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
    sop TEXT NOT NULL, peer TEXT NOT NULL, study TEXT NOT NULL, done_at REAL, failures INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0, PRIMARY KEY (sop, peer));
CREATE TABLE IF NOT EXISTS peers (name TEXT PRIMARY KEY);
CREATE INDEX IF NOT EXISTS exams_by_state ON exams (state, next_try);
CREATE INDEX IF NOT EXISTS deliveries_open ON deliveries (peer, next_try) WHERE done_at IS NULL;
"""


class State(StrEnum):
    """Where an exam stands; `removed` leaves only its hash."""

    COLLECTING = "collecting"
    READY = "ready"
    ANSWERED = "answered"
    DELIVERED = "delivered"
    FAILED = "failed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Accepted:
    """An instance that is safely on disk.

    Attributes:
        study: Hash of the Study Instance UID.
        is_new: False for one that was there before, or that this program made.
    """

    study: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Job:
    """An exam to be answered.

    Attributes:
        study: Hash of the Study Instance UID.
        revision: Of the exam; a later image makes the next.
        files: Its instances, by name, so that the order does not depend on arrival.
        earlier: Objects of earlier revisions, oldest first.
    """

    study: str
    revision: int
    files: tuple[Path, ...]
    earlier: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Objects of one exam that a peer has not got.

    Attributes:
        study: Hash of the Study Instance UID.
        objects: The files, oldest first.
        failures: How often it was tried in vain.
    """

    study: str
    objects: tuple[Path, ...]
    failures: int


def hashed(uid: str) -> str:
    """The name of a UID: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def study_of(path: Path, sop_instance_uid: str) -> str:
    """Study Instance UID of a DICOM file; only its header is read.

    Raises:
        Refused: `unreadable`: there is none, or the object is another one than its sender said.
    """
    try:
        with path.open("rb") as file:
            header, _ = parse_header(file, ["SOPInstanceUID", "StudyInstanceUID"])
        stated, study = str(header.get("SOPInstanceUID", "")), str(header.get("StudyInstanceUID", ""))
    except (*PARSE_ERRORS, RecursionError) as error:
        raise Refused(Reason.UNREADABLE, f"the header cannot be parsed ({type(error).__name__})") from error
    if stated != sop_instance_uid:
        raise Refused(Reason.UNREADABLE, "the data set has another SOP Instance UID than the message")
    # UIDs of real archives have leading zeros; only their characters and length are asked for.
    if not 0 < len(study) <= 64 or not set(study) <= set("0123456789."):
        raise Refused(Reason.UNREADABLE, "the data set has no valid Study Instance UID")
    return study
