"""What one sender, one exam and one job may use up; checked before anything is decoded."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from densityclip.errors import UserError

GIBIBYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the listener.

    A tomosynthesis volume of 70 uncompressed frames is 687 MB, so one instance may have 1 GiB.

    Attributes:
        associations: Associations at once; a further one is refused for the moment.
        instance_bytes: Bytes of one C-STORE message, and so what one association may hold in memory.
        exam_instances: Instances of one exam.
        reserve_bytes: Free space that is left for answers and the table of exams; below it, images are refused.
        job_seconds: Time for the answer to one exam; then its worker process is killed.
        job_bytes: Memory for data of a worker process (RLIMIT_DATA).
        attempts: How often an exam is tried whose worker fails, before it counts as failed.
    """

    associations: int = 8
    instance_bytes: int = GIBIBYTE
    exam_instances: int = 1000
    reserve_bytes: int = GIBIBYTE
    job_seconds: float = 600.0
    job_bytes: int = 12 * GIBIBYTE
    attempts: int = 3

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value < (0 if name == "reserve_bytes" else 1):
                raise UserError(f"the limit {name} is {value}", "give a positive number")

    def has_room(self, folder: Path, wanted: int) -> bool:
        """Whether a file of so many bytes fits on the folder's disk and leaves the reserve free."""
        return shutil.disk_usage(folder).free - wanted >= self.reserve_bytes


@dataclass(frozen=True, slots=True)
class Pauses:
    """Growing pauses between attempts: `first * factor**attempt` seconds, at most `longest`.

    Attributes:
        first: Seconds after the first failure.
        factor: How much longer each next pause is.
        longest: Seconds that a pause has at most.
    """

    first: float
    factor: float
    longest: float

    def after(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row, one or more."""
        # The exponent is bounded: a peer may be down for a year.
        return min(self.longest, self.first * self.factor ** min(failures - 1, 64))
