"""Which answers wait for which peer."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from densityclip.deliver.durable import DurableTable
from densityclip.deliver.exams import Delivery, State


class Outbox:
    """The deliveries of a store of exams."""

    def __init__(self, table: DurableTable, results: Path, clock: Callable[[], float]) -> None:
        """Look at a store's table.

        Args:
            table: Of the store.
            results: Where its objects lie, in a folder an exam.
            clock: Seconds since the epoch.
        """
        self._table, self._results, self._clock = table, results, clock

    def deliver_to(self, peers: Sequence[str]) -> None:
        """Say by name who is to get the answers from now on; what waits for others goes on waiting."""
        with self._table.transaction() as table:
            table.execute("DELETE FROM peers")
            table.executemany("INSERT INTO peers VALUES (?)", [(peer,) for peer in peers])

    def post(self, table: sqlite3.Connection, study: str, sop: str) -> None:
        """Note, within a transaction, that an object is to go to every peer."""
        table.execute(
            "INSERT OR IGNORE INTO deliveries (sop, peer, study) SELECT ?, name, ? FROM peers ORDER BY rowid",
            (sop, study),
        )

    def due(self, peer: str) -> Iterator[Delivery]:
        """What a peer is to get now, exam by exam, oldest first."""
        rows = self._table.all(
            "SELECT study FROM deliveries WHERE peer = ? AND done_at IS NULL AND next_try <= ? "
            "GROUP BY study ORDER BY min(rowid)",
            peer,
            self._clock(),
        )
        for (study,) in rows:
            found = self._table.all(
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
        with self._table.transaction() as table:
            for path in objects:
                table.execute("UPDATE deliveries SET done_at = ? WHERE sop = ? AND peer = ?", (now, path.stem, peer))
            self.close_delivered(table, delivery.study)

    def failed(self, delivery: Delivery, peer: str, *, pause: float) -> None:
        """Let what a peer did not take wait; it is tried without end."""
        with self._table.transaction() as table:
            table.execute(
                "UPDATE deliveries SET failures = failures + 1, next_try = ? "
                "WHERE study = ? AND peer = ? AND done_at IS NULL",
                (self._clock() + pause, delivery.study, peer),
            )

    def give_up(self, peer: str) -> int:
        """Drop what waits for a peer that will not come back; returns how many objects.

        An exam that nobody else waits for counts as delivered from now on.
        """
        with self._table.transaction() as table:
            open_ones = "FROM deliveries WHERE peer = ? AND done_at IS NULL"
            rows = table.execute(f"SELECT study {open_ones}", (peer,)).fetchall()
            table.execute(f"DELETE {open_ones}", (peer,))
            for study in dict.fromkeys(study for (study,) in rows):
                self.close_delivered(table, study)
        return len(rows)

    def close_delivered(self, table: sqlite3.Connection, study: str) -> None:
        """Note, within a transaction, that an answered exam is delivered, if nothing of it waits."""
        table.execute(
            "UPDATE exams SET state = ?, done_at = ? WHERE study = ? AND state = ? AND NOT EXISTS "
            "(SELECT 1 FROM deliveries WHERE deliveries.study = exams.study AND deliveries.done_at IS NULL)",
            (State.DELIVERED, self._clock(), study, State.ANSWERED),
        )

    def waiting_for(self) -> dict[str, int]:
        """How many objects wait for each peer, those that are no longer configured included."""
        return dict(self._table.all("SELECT peer, count(*) FROM deliveries WHERE done_at IS NULL GROUP BY peer"))
