"""Exams on disk: what was accepted stays, whatever happens to the process.

An instance is accepted in this order: written to a temporary file, synced, renamed, its folder synced, entered into the
table and committed (SQLite, write-ahead log, `synchronous=FULL`); only then may the sender hear of success. The table
is the one truth of what is to be done: there is no queue beside it that could disagree. Names of files are hashes of
UIDs, so that nothing from outside becomes a path, and so that no log or listing of files shows a UID.
"""

import hashlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from densityclip.deliver.durable import DurableFolder, is_full, make_folder, rename_synced, sync, write_synced
from densityclip.deliver.limits import Limits
from densityclip.dicom.elements import PARSE_ERRORS
from densityclip.dicom.inflate import parse_header
from densityclip.reasons import Reason, Refused

_SCHEMA_VERSION = 1
_TABLES = """
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


class DiskFullError(Exception):
    """There is no room for an instance; the sender shall try again later."""


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


class Store(DurableFolder):
    """Accepted instances, answers, and the table of exams, in one folder; safe to use from several threads.

    Attributes:
        folder: Where everything lies.
        limits: What an exam may use.
    """

    def __init__(self, folder: Path, *, limits: Limits | None = None, clock: Callable[[], float] = time.time) -> None:
        """Open a store, make it where there is none, and put right what a killed process left.

        Args:
            folder: Where; two processes cannot have the same one open.
            limits: What an exam may use.
            clock: Seconds since the epoch.

        Raises:
            UserError: Another process has it open, it is of another version, or it cannot be written.
        """
        self.folder, self.limits, self._clock = folder, limits or Limits(), clock
        self._running: set[str] = set()
        self._names = iter(range(1 << 62))
        parts = (self._incoming, self._instances, self._results, self._trash, self.work)
        super().__init__(folder, "exams.sqlite", _TABLES, version=_SCHEMA_VERSION, parts=parts)

    # What comes in.

    def accept(self, pieces: Iterable[bytes | memoryview], *, sop_instance_uid: str, sender: str) -> Accepted:
        """Put an instance on disk; when this returns, it is there for good.

        Args:
            pieces: The bytes of a DICOM file, in order.
            sop_instance_uid: What the sender says it is.
            sender: AE title of the sender.

        Raises:
            Refused: `unreadable`: no Study Instance UID, or another SOP Instance UID than was said; `too_large`: the
                exam has too many instances.
            DiskFullError: There is no room; nothing was kept.
        """
        temporary = self._incoming / f"{next(self._names)}.part"
        try:
            size = write_synced(temporary, pieces)
            study = hashed(_study_of(temporary, sop_instance_uid))
            with self._lock:
                return self._enter(temporary, study, hashed(sop_instance_uid), size, sender)
        except (OSError, sqlite3.Error) as error:
            if is_full(error):
                raise DiskFullError from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def _enter(self, temporary: Path, study: str, sop: str, size: int, sender: str) -> Accepted:
        if self._one("SELECT 1 FROM objects WHERE sop = ?", sop):
            # A PACS that sends everything on sends our own answers too: they are no images of the exam.
            return Accepted(study, is_new=False)
        path = self._instances / study / f"{sop}.dcm"
        if self._one("SELECT 1 FROM instances WHERE study = ? AND sop = ?", study, sop) and path.is_file():
            self._try_failed_again(study)
            return Accepted(study, is_new=False)
        known = self._one("SELECT count(*) FROM instances WHERE study = ?", study)
        if known and known[0] >= self.limits.exam_instances:
            raise Refused(Reason.TOO_LARGE, f"the exam has {known[0]} instances")
        make_folder(path.parent)
        rename_synced(temporary, path)
        now = self._clock()
        try:
            with self._transaction() as table:
                table.execute("INSERT OR REPLACE INTO instances VALUES (?, ?, ?)", (study, sop, size))
                table.execute(
                    "INSERT INTO exams (study, state, sender, revision, last_arrival) VALUES (?, ?, ?, 1, ?) "
                    "ON CONFLICT (study) DO UPDATE SET state = excluded.state, sender = excluded.sender, "
                    "revision = revision + 1, last_arrival = excluded.last_arrival, failures = 0, next_try = 0, "
                    "reason = NULL, detail = NULL, done_at = NULL",
                    (study, State.COLLECTING, sender, now),
                )
        except sqlite3.Error:
            # The sender hears that nothing was kept; on a full disk the next start could not even enter it.
            path.unlink(missing_ok=True)
            raise
        return Accepted(study, is_new=True)

    def _try_failed_again(self, study: str) -> None:
        with self._transaction() as table:
            table.execute(
                "UPDATE exams SET state = ?, last_arrival = ?, failures = 0, next_try = 0, reason = NULL, "
                "detail = NULL, done_at = NULL WHERE study = ? AND state = ?",
                (State.COLLECTING, self._clock(), study, State.FAILED),
            )

    # What is to be answered.

    def next_job(self, quiet_seconds: float) -> Job | None:
        """Take the next exam to answer: its quiet time has passed, and nobody works on it.

        An exam that was begun more often comes later, so that one which brings down its worker, or the whole machine,
        stands in nobody's way. Give it back with `answered`, `failed` or `release`.
        """
        now = self._clock()
        with self._lock:
            with self._transaction() as table:
                table.execute(
                    "UPDATE exams SET state = ? WHERE state = ? AND last_arrival <= ?",
                    (State.READY, State.COLLECTING, now - quiet_seconds),
                )
            rows = self._all(
                "SELECT study, revision FROM exams WHERE state = ? AND next_try <= ? ORDER BY starts, last_arrival",
                State.READY,
                now,
            )
            found = next(((study, revision) for study, revision in rows if study not in self._running), None)
            if found is None:
                return None
            study, revision = found
            with self._transaction() as table:
                table.execute("UPDATE exams SET starts = starts + 1 WHERE study = ?", (study,))
            self._running.add(study)
            return Job(study, revision, self._files_of(study), self._objects_of(study))

    def begin_quiet_times(self) -> None:
        """Begin the quiet time of every unfinished exam anew: nobody could send while nobody listened."""
        with self._transaction() as table:
            table.execute("UPDATE exams SET last_arrival = ? WHERE state = ?", (self._clock(), State.COLLECTING))

    def release(self, job: Job) -> None:
        """Give an exam back unanswered, without blame."""
        with self._lock:
            self._running.discard(job.study)

    def answered(self, job: Job, objects: Sequence[tuple[str, Path]], peers: Sequence[str]) -> bool:
        """Keep the answer to an exam, and note who is to get it.

        Args:
            job: As taken.
            objects: SOP Instance UID and file of each DICOM object; the files are moved into the store.
            peers: Names of those who are to get them.

        Returns:
            False if an image came meanwhile: then the answer is dropped, and the exam waits for its next quiet time.
        """
        folder = self._results / job.study
        with self._lock:
            self._running.discard(job.study)
            known = self._one("SELECT revision FROM exams WHERE study = ?", job.study)
            if known is None or known[0] != job.revision:
                return False
            make_folder(folder)
            for uid, path in objects:
                sync(path)
                rename_synced(path, folder / f"{hashed(uid)}.dcm")
            with self._transaction() as table:
                for uid, _ in objects:
                    self._note_object(table, job, hashed(uid), peers)
                table.execute(
                    "UPDATE exams SET state = ?, failures = 0, reason = NULL, detail = NULL WHERE study = ?",
                    (State.ANSWERED, job.study),
                )
                self._close_delivered(table, job.study)
        return True

    def _note_object(self, table: sqlite3.Connection, job: Job, sop: str, peers: Sequence[str]) -> None:
        table.execute(
            "INSERT OR IGNORE INTO objects (sop, study, revision) VALUES (?, ?, ?)", (sop, job.study, job.revision)
        )
        for peer in peers:
            table.execute(
                "INSERT OR IGNORE INTO deliveries (sop, peer, study) VALUES (?, ?, ?)", (sop, peer, job.study)
            )

    def failed(
        self, job: Job, reason: Reason, detail: str, *, pause: Callable[[int], float], for_good: bool = False
    ) -> int:
        """Note that an exam could not be answered.

        Args:
            job: As taken.
            reason: Why.
            detail: The fact, without names of patients.
            pause: Number of failures to seconds until it may be tried again.
            for_good: Whether it need not be tried again at all.

        Returns:
            How often it has failed.
        """
        now = self._clock()
        with self._lock, self._transaction() as table:
            self._running.discard(job.study)
            table.execute(
                "UPDATE exams SET failures = failures + 1, reason = ?, detail = ? WHERE study = ?",
                (reason.value, detail, job.study),
            )
            (failures,) = table.execute("SELECT failures FROM exams WHERE study = ?", (job.study,)).fetchone()
            table.execute("UPDATE exams SET next_try = ? WHERE study = ?", (now + pause(failures), job.study))
            if for_good or failures >= self.limits.attempts:
                # Only the revision that was tried: an image that came meanwhile begins anew.
                table.execute(
                    "UPDATE exams SET state = ?, done_at = ? WHERE study = ? AND revision = ?",
                    (State.FAILED, now, job.study, job.revision),
                )
        return int(failures)

    # What goes out.

    def due_deliveries(self, peer: str) -> Iterator[Delivery]:
        """What a peer is to get now, exam by exam, oldest first."""
        rows = self._all(
            "SELECT study FROM deliveries WHERE peer = ? AND done_at IS NULL AND next_try <= ? "
            "GROUP BY study ORDER BY min(rowid)",
            peer,
            self._clock(),
        )
        for (study,) in rows:
            found = self._all(
                "SELECT sop, failures FROM deliveries JOIN objects USING (sop) "
                "WHERE peer = ? AND deliveries.study = ? AND done_at IS NULL ORDER BY number",
                peer,
                study,
            )
            if found:
                paths = tuple(self._results / study / f"{sop}.dcm" for sop, _ in found)
                yield Delivery(study, paths, max(failures for _, failures in found))

    def delivered(self, delivery: Delivery, peer: str, objects: Iterable[Path]) -> None:
        """Note which objects of a delivery the peer has confirmed."""
        now = self._clock()
        with self._lock, self._transaction() as table:
            for path in objects:
                table.execute("UPDATE deliveries SET done_at = ? WHERE sop = ? AND peer = ?", (now, path.stem, peer))
            self._close_delivered(table, delivery.study)

    def delivery_failed(self, delivery: Delivery, peer: str, *, pause: float) -> None:
        """Let what a peer did not take wait; it is tried without end."""
        with self._lock, self._transaction() as table:
            table.execute(
                "UPDATE deliveries SET failures = failures + 1, next_try = ? "
                "WHERE study = ? AND peer = ? AND done_at IS NULL",
                (self._clock() + pause, delivery.study, peer),
            )

    def _close_delivered(self, table: sqlite3.Connection, study: str) -> None:
        table.execute(
            "UPDATE exams SET state = ?, done_at = ? WHERE study = ? AND state = ? AND NOT EXISTS "
            "(SELECT 1 FROM deliveries WHERE deliveries.study = exams.study AND deliveries.done_at IS NULL)",
            (State.DELIVERED, self._clock(), study, State.ANSWERED),
        )

    # What goes away.

    def remove_old(self, *, delivered_seconds: float, failed_seconds: float) -> int:
        """Remove images and answers of exams that have been delivered, or failed, for so long. Returns how many.

        The hashes of the answers stay, so that one which comes back is still known as ours.
        """
        now = self._clock()
        rows = self._all(
            "SELECT study FROM exams WHERE (state = ? AND done_at <= ?) OR (state = ? AND done_at <= ?)",
            State.DELIVERED,
            now - delivered_seconds,
            State.FAILED,
            now - failed_seconds,
        )
        for (study,) in rows:
            self._remove(study)
        self._empty_trash()
        return len(rows)

    def _remove(self, study: str) -> None:
        with self._lock:
            with self._transaction() as table:
                table.execute("DELETE FROM instances WHERE study = ?", (study,))
                table.execute("DELETE FROM deliveries WHERE study = ? AND done_at IS NOT NULL", (study,))
                table.execute("UPDATE exams SET state = ? WHERE study = ?", (State.REMOVED, study))
            self._throw_away(study)

    def _throw_away(self, study: str) -> None:
        for part in (self._instances, self._results):
            if (part / study).is_dir():
                (part / study).rename(self._trash / f"{study}-{part.name}-{time.time_ns()}")

    def _empty_trash(self) -> None:
        for old in self._trash.iterdir():
            shutil.rmtree(old, ignore_errors=True)

    # What is known.

    def states(self) -> dict[str, int]:
        """How many exams are in each state."""
        return dict(self._all("SELECT state, count(*) FROM exams GROUP BY state"))

    def state_of(self, study: str) -> tuple[State, str | None]:
        """State of an exam, by the hash of its UID, and the reason where it failed.

        Raises:
            KeyError: There is no such exam.
        """
        row = self._one("SELECT state, reason FROM exams WHERE study = ?", study)
        if row is None:
            raise KeyError(study)
        return State(row[0]), row[1]

    def waiting_for(self) -> dict[str, int]:
        """How many objects wait for each peer, those that are no longer configured included."""
        return dict(self._all("SELECT peer, count(*) FROM deliveries WHERE done_at IS NULL GROUP BY peer"))

    # How.

    @property
    def work(self) -> Path:
        """Where workers write; emptied when the store is opened."""
        return self.folder / "work"

    @property
    def _incoming(self) -> Path:
        return self.folder / "incoming"

    @property
    def _instances(self) -> Path:
        return self.folder / "instances"

    @property
    def _results(self) -> Path:
        return self.folder / "results"

    @property
    def _trash(self) -> Path:
        return self.folder / "trash"

    def _recover(self) -> None:
        """After a kill: half files go, whole files without a row get one, and every exam's quiet time starts anew."""
        for part in (self._incoming, self.work):
            for left in part.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        removed = {study for (study,) in self._all("SELECT study FROM exams WHERE state = ?", State.REMOVED)}
        for folder in self._instances.iterdir():
            if folder.name in removed:
                self._throw_away(folder.name)
            else:
                self._adopt(folder)
        self.begin_quiet_times()
        self._empty_trash()

    def _adopt(self, folder: Path) -> None:
        """Enter files that were renamed but not yet entered: their sender heard nothing, and may not ask again."""
        study = folder.name
        known = {sop for (sop,) in self._all("SELECT sop FROM instances WHERE study = ?", study)}
        found = [path for path in folder.glob("*.dcm") if path.stem not in known]
        if not found:
            return
        with self._transaction() as table:
            for path in found:
                table.execute("INSERT INTO instances VALUES (?, ?, ?)", (study, path.stem, path.stat().st_size))
            table.execute(
                "INSERT INTO exams (study, state, sender, revision, last_arrival) VALUES (?, ?, '', 1, ?) "
                "ON CONFLICT (study) DO UPDATE SET state = excluded.state, revision = revision + 1, "
                "failures = 0, next_try = 0, reason = NULL, detail = NULL, done_at = NULL",
                (study, State.COLLECTING, self._clock()),
            )

    def _files_of(self, study: str) -> tuple[Path, ...]:
        rows = self._all("SELECT sop FROM instances WHERE study = ? ORDER BY sop", study)
        return tuple(self._instances / study / f"{sop}.dcm" for (sop,) in rows)

    def _objects_of(self, study: str) -> tuple[Path, ...]:
        rows = self._all("SELECT sop FROM objects WHERE study = ? ORDER BY number", study)
        paths = (self._results / study / f"{sop}.dcm" for (sop,) in rows)
        return tuple(path for path in paths if path.is_file())


def _study_of(path: Path, sop_instance_uid: str) -> str:
    """Study Instance UID of a file; only its header is read."""
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
