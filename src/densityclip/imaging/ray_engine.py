"""The engine that spreads a preparation over a Ray cluster: the same watched workers, one in each of Ray's."""

import functools
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import polars as pl

from densityclip import __version__
from densityclip.errors import UserError
from densityclip.imaging.engine import LocalEngine
from densityclip.imaging.recipe import Recipe, prepared_count
from densityclip.imaging.worker import PLACE, PreparedImage, Timed
from densityclip.reasons import Reason, Refused

# A block is what Ray hands out, and what is done again if its node is lost. A thousand of them cost 10 s.
_IMAGES_A_BLOCK = 256
_BYTES_A_BLOCK = 64_000_000
_BLOCKS_A_WORKER = 4
_ROW = {
    "pixels": pl.Binary(),
    "places": pl.Binary(),
    "reason": pl.String(),
    "detail": pl.String(),
    "seconds": pl.Float64(),
}
_REASONS = {reason.value: reason for reason in Reason}


class RayEngine:
    """Preparation through Ray Data; see `engine.Engine`.

    Without an address Ray is started on this machine and stopped in the end; a Ray that the caller has started is used
    and left alone. Every node opens the paths that the index names, so the archive lies on storage that all share.
    """

    def __init__(
        self, recipe: Recipe, *, workers: int | None = None, timeout: float, address: str | None = None
    ) -> None:
        """Check that Ray is there; nothing is started yet.

        Args:
            recipe: How to prepare.
            workers: Files at the same time; every CPU of the cluster if None.
            timeout: Seconds that one file may take.
            address: Of a running cluster.

        Raises:
            UserError: Ray is not installed.
        """
        # Ray reads these when it is imported. Nothing about a hospital's cluster is sent anywhere.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise UserError(
                "Ray is not installed", "install it: pip install 'densityclip[ray]'; or use --engine local"
            ) from error
        self._wanted, self._workers = workers, 0
        self._recipe, self._timeout, self._address = recipe, timeout, address
        self._mine = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mine.close()

    @property
    def workers(self) -> int:
        """Files that are prepared at the same time; Ray is started to find out."""
        if not self._workers:
            import ray

            if not ray.is_initialized():
                self._start()
                self._mine.callback(ray.shutdown)
            cpus = max(1, int(ray.cluster_resources().get("CPU", 0)))
            # More tasks than CPUs would be waited for without end.
            self._workers = min(self._wanted or cpus, cpus)
        return self._workers

    def _start(self) -> None:
        import ray

        # Without a word, ray.init() would join whatever cluster was last started on this machine.
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"
        cpus = self._wanted if address == "local" else None
        try:
            _knock(address)
            ray.init(
                address=address,
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, ValueError, RuntimeError) as error:
            where = "Ray on this machine" if address == "local" else f"the Ray cluster at {address}"
            raise UserError(f"{where} cannot be reached ({error})", "check --ray-address and `ray status`") from error

    def run(self, paths: pl.Series) -> Iterator[Timed]:
        """Prepare files; see `Engine.run`."""
        import ray
        from ray.data import DataContext, TaskPoolStrategy

        if not len(paths):
            return
        # What it has to say of a failure is said in one line, below.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.execution_options.verbose_progress = False
        workers = self.workers
        blocks = self._blocks(len(paths), workers)
        data = ray.data.from_arrow(paths.alias("path").to_frame().to_arrow(), override_num_blocks=blocks)
        prepared = data.map_batches(
            functools.partial(_prepare_block, recipe=self._recipe, timeout=self._timeout, version=__version__),
            batch_size=None,
            batch_format="pyarrow",
            compute=TaskPoolStrategy(size=min(workers, blocks)),
            num_cpus=1,
        )
        shape = (-1, self._recipe.height, self._recipe.width)
        batch: Any
        try:
            for batch in prepared.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                for row in batch.to_pylist():
                    yield _timed(row, shape, self._recipe.dtype)
        except ray.exceptions.RayError as error:
            raise UserError(
                f"Ray gave up: {_cause(error)}", "look at `ray status`, then run the same command again"
            ) from error

    def _blocks(self, images: int, workers: int) -> int:
        volume = prepared_count(1_000, self._recipe)
        a_row = self._recipe.height * self._recipe.width * self._recipe.dtype.itemsize * volume
        a_block = max(1, min(_IMAGES_A_BLOCK, _BYTES_A_BLOCK // a_row))
        return max(-(-images // a_block), min(images, _BLOCKS_A_WORKER * workers))


def _prepare_block(batch: Any, recipe: Recipe, timeout: float, version: str) -> Any:
    if version != __version__:
        raise RuntimeError(f"a node has densityclip {__version__}, the job was started with {version}")
    paths = pl.Series(batch["path"].to_pylist(), dtype=pl.String)
    rows = [_row(timed) for timed in _watched_worker(recipe, timeout).run(paths)]
    return pl.DataFrame(rows, schema=_ROW).to_arrow()


@functools.lru_cache(maxsize=1)
def _watched_worker(recipe: Recipe, timeout: float) -> LocalEngine:
    """One process beside that of Ray, for as long as that lives, so that a crash costs a file and Ray never sees it.

    Ray itself starts a task whose process died again, without end. The process ends when its pipe is closed.
    """
    return LocalEngine(recipe, timeout=timeout).__enter__()


def _cause(error: Exception) -> str:
    """The line that says why, out of the traces of several processes, of which the first is the innermost."""
    said = re.search(r"^\w*(?:Error|Exception): (.+)$", str(error), flags=re.MULTILINE)
    return said.group(1) if said else type(error).__name__


def _knock(address: str) -> None:
    """Raise an OSError if nothing listens there; Ray itself tries for ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _row(timed: Timed) -> dict[str, Any]:
    outcome = timed.outcome
    if isinstance(outcome, Refused):
        return {"reason": outcome.reason.value, "detail": outcome.detail, "seconds": timed.seconds}
    return {"pixels": outcome.pixels.tobytes(), "places": outcome.places.tobytes(), "seconds": timed.seconds}


def _timed(row: Mapping[str, Any], shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Timed:
    if row["reason"] is not None:
        return Timed(Refused(_REASONS[row["reason"]], row["detail"]), row["seconds"])
    pixels = np.frombuffer(row["pixels"], dtype).reshape(shape)
    places = np.frombuffer(row["places"], np.int32).reshape(-1, len(PLACE))
    return Timed(PreparedImage(pixels, places), row["seconds"])
