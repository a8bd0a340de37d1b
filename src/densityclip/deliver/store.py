"""Exams on disk: what was accepted stays, whatever happens to the process.

An instance is accepted in this order: written to a temporary file, synced, renamed, its folder synced, entered into the
table and committed (SQLite, write-ahead log, `synchronous=FULL`); only then may the sender hear of success. The table
is the one truth of what is to be done; a queue (`job_queue`) only tells workers of it. Names of files are hashes of
UIDs, so that nothing from outside becomes a path, and so that no log or listing of files shows a UID.
"""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from densityclip.deliver.durable import (
    DiskFullError,
    DurableFolder,
    is_full,
    make_folder,
    rename_synced,
    sync,
    write_synced,
)
from densityclip.deliver.exams import SCHEMA_VERSION, TABLES, Accepted, Job, State, hashed, study_of
from densityclip.deliver.limits import Limits
from densityclip.deliver.outbox import Outbox
from densityclip.reasons import Reason, Refused

EXAMS = "exams.sqlite"
"""The table's file."""


class Store(DurableFolder):
    """Accepted instances, answers, and the table of exams, in one folder; safe to use from several threads.

    Attributes:
        folder: Where everything lies.
        limits: What an exam may use.
        outbox: Which answers wait for which peer.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        joining: bool = False,
    ) -> None:
        """Open a store; as the listener, make it where there is none and put right what a killed process left.

        Args:
            folder: Where; two listeners cannot have the same one open.
            limits: What an exam may use.
            clock: Seconds since the epoch.
            joining: Whether to answer exams beside the listener, whose the store is.

        Raises:
            UserError: Another listener has it open, there is none to join, it is of another version, or it cannot be
                written.
        """
        self.folder, self.limits, self._clock = folder, limits or Limits(), clock
        self._names = iter(range(1 << 62))
        parts = (self._incoming, self._instances, self._results, self._trash)
        super().__init__(folder, EXAMS, TABLES, version=SCHEMA_VERSION, parts=parts, joining=joining)
        self.outbox = Outbox(self.table, self._results, clock)

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
            study = hashed(study_of(temporary, sop_instance_uid))
            with self.table.lock:
                return self._enter(temporary, study, hashed(sop_instance_uid), size, sender)
        except (OSError, sqlite3.Error) as error:
            if is_full(error):
                raise DiskFullError from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def _enter(self, temporary: Path, study: str, sop: str, size: int, sender: str) -> Accepted:
        if self.table.one("SELECT 1 FROM objects WHERE sop = ?", sop):
            # A PACS that sends everything on sends our own answers too: they are no images of the exam.
            return Accepted(study, is_new=False)
        path = self._instances / study / f"{sop}.dcm"
        if self.table.one("SELECT 1 FROM instances WHERE study = ? AND sop = ?", study, sop) and path.is_file():
            self._try_failed_again(study)
            return Accepted(study, is_new=False)
        known = self.table.one("SELECT count(*) FROM instances WHERE study = ?", study)
        if known and known[0] >= self.limits.exam_instances:
            raise Refused(Reason.TOO_LARGE, f"the exam has {known[0]} instances")
        make_folder(path.parent)
        rename_synced(temporary, path)
        now = self._clock()
        try:
            with self.table.transaction() as table:
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
        with self.table.transaction() as table:
            table.execute(
                "UPDATE exams SET state = ?, last_arrival = ?, failures = 0, next_try = 0, reason = NULL, "
                "detail = NULL, done_at = NULL WHERE study = ? AND state = ?",
                (State.COLLECTING, self._clock(), study, State.FAILED),
            )

    # What is to be answered.

    def ripen(self, quiet_seconds: float) -> None:
        """Call those exams complete whose last image came so long ago; for the listener alone to judge."""
        with self.table.transaction() as table:
            table.execute(
                "UPDATE exams SET state = ? WHERE state = ? AND last_arrival <= ?",
                (State.READY, State.COLLECTING, self._clock() - quiet_seconds),
            )

    def due(self, quiet_seconds: float | None = None) -> list[str]:
        """Complete exams on which nobody works, in the order in which they are to be answered.

        An exam that was begun more often comes later, so that one which brings down its worker, or the whole machine,
        stands in nobody's way.

        Args:
            quiet_seconds: Let exams `ripen` first; None where that is for another process.
        """
        if quiet_seconds is not None:
            self.ripen(quiet_seconds)
        rows = self.table.all(
            "SELECT exams.study, worker FROM exams LEFT JOIN claims ON claims.study = exams.study "
            "WHERE state = ? AND next_try <= ? ORDER BY starts, last_arrival",
            State.READY,
            self._clock(),
        )
        return self.claims.free(rows)

    def take(self, study: str) -> Job | None:
        """Take an exam that is due; `release` gives it back, answered or not.

        Returns:
            None where it is not due, or another process has it.
        """
        with self.table.transaction() as table:
            row = table.execute(
                "SELECT revision FROM exams WHERE study = ? AND state = ? AND next_try <= ?",
                (study, State.READY, self._clock()),
            ).fetchone()
            if row is None or not self.claims.take(table, study):
                return None
            table.execute("UPDATE exams SET starts = starts + 1 WHERE study = ?", (study,))
            return Job(study, row[0], self._files_of(study), self._objects_of(study))

    def begin_quiet_times(self) -> None:
        """Begin the quiet time of every unfinished exam anew: nobody could send while nobody listened."""
        with self.table.transaction() as table:
            table.execute("UPDATE exams SET last_arrival = ? WHERE state = ?", (self._clock(), State.COLLECTING))

    def answered(self, job: Job, objects: Sequence[tuple[str, Path]]) -> bool:
        """Keep the answer to an exam, and note that every peer is to get it.

        Args:
            job: As taken.
            objects: SOP Instance UID and file of each DICOM object; the files are moved into the store.

        Returns:
            False if an image came meanwhile: then the answer is dropped, and the exam waits for its next quiet time.
        """
        folder = self._results / job.study
        # All within one transaction: no image of the exam can come in between.
        with self.table.transaction() as table:
            known = table.execute("SELECT revision FROM exams WHERE study = ?", (job.study,)).fetchone()
            if known is None or known[0] != job.revision:
                return False
            make_folder(folder)
            for uid, path in objects:
                sync(path)
                rename_synced(path, folder / f"{hashed(uid)}.dcm")
                table.execute(
                    "INSERT OR IGNORE INTO objects (sop, study, revision) VALUES (?, ?, ?)",
                    (hashed(uid), job.study, job.revision),
                )
                self.outbox.post(table, job.study, hashed(uid))
            table.execute(
                "UPDATE exams SET state = ?, failures = 0, reason = NULL, detail = NULL WHERE study = ?",
                (State.ANSWERED, job.study),
            )
            self.outbox.close_delivered(table, job.study)
        return True

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
        with self.table.transaction() as table:
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

    # What goes away.

    def remove_old(self, *, delivered_seconds: float, failed_seconds: float) -> int:
        """Remove images and answers of exams that have been delivered, or failed, for so long. Returns how many.

        The hashes of the answers stay, so that one which comes back is still known as ours.
        """
        now = self._clock()
        rows = self.table.all(
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
        with self.table.lock:
            with self.table.transaction() as table:
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
        return dict(self.table.all("SELECT state, count(*) FROM exams GROUP BY state"))

    def state_of(self, study: str) -> tuple[State, str | None]:
        """State of an exam, by the hash of its UID, and the reason where it failed.

        Raises:
            KeyError: There is no such exam.
        """
        row = self.table.one("SELECT state, reason FROM exams WHERE study = ?", study)
        if row is None:
            raise KeyError(study)
        return State(row[0]), row[1]

    # How.

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
        for left in self._incoming.iterdir():
            left.unlink()
        with self.table.transaction() as table:
            self.claims.forget_the_dead(table)
        removed = {study for (study,) in self.table.all("SELECT study FROM exams WHERE state = ?", State.REMOVED)}
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
        known = {sop for (sop,) in self.table.all("SELECT sop FROM instances WHERE study = ?", study)}
        found = [path for path in folder.glob("*.dcm") if path.stem not in known]
        if not found:
            return
        with self.table.transaction() as table:
            for path in found:
                table.execute("INSERT INTO instances VALUES (?, ?, ?)", (study, path.stem, path.stat().st_size))
            table.execute(
                "INSERT INTO exams (study, state, sender, revision, last_arrival) VALUES (?, ?, '', 1, ?) "
                "ON CONFLICT (study) DO UPDATE SET state = excluded.state, revision = revision + 1, "
                "failures = 0, next_try = 0, reason = NULL, detail = NULL, done_at = NULL",
                (study, State.COLLECTING, self._clock()),
            )

    def _files_of(self, study: str) -> tuple[Path, ...]:
        rows = self.table.all("SELECT sop FROM instances WHERE study = ? ORDER BY sop", study)
        return tuple(self._instances / study / f"{sop}.dcm" for (sop,) in rows)

    def _objects_of(self, study: str) -> tuple[Path, ...]:
        rows = self.table.all("SELECT sop FROM objects WHERE study = ? ORDER BY number", study)
        paths = (self._results / study / f"{sop}.dcm" for (sop,) in rows)
        return tuple(path for path in paths if path.is_file())
