"""Where `predict` spends its time on DICOM exams: decoding, the forward pass, everything else.

    python benchmarks/reading_room.py [--exams 4] [--size 1024] [--overlay]

Generated exams (four views as DM, s2D and DBT, as DICOM files; DM has `--size` rows) are predicted with a bundle of
BiomedCLIP's own shape (ViT-B/16 at 224 px, random weights), with structured reports, in one process. Processor time is
counted, not the clock on the wall: another program beside it then costs it little, and decoding runs beside the forward
pass anyway.

- start: imports, checking the bundle's hashes, loading the tower. A service pays it once.
- decoding: from a file to prepared pixels (`prepare_file`), in its thread.
- forward: prepared pixels to logits.
- maps: with `--overlay`, what it adds: mapping and drawing.
- everything else: the rest of `steps.predict`: finding files, headers, tables, aggregation, JSON, reports.

The share is of decoding, forward pass and everything else; the start is told beside it.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock


class Clock:
    """Processor seconds by name, of the thread that spends them; none of the names calls another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - start

        return timed

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what `predict` calls."""
        from densityclip.explain import maps
        from densityclip.inference import predictor
        from densityclip.steps.overlays import Overlays

        places = (
            ("decoding", predictor, "prepare_file"),
            ("forward", predictor.Predictor, "answers"),
            ("maps", maps, "pixel_maps"),
            ("maps", Overlays, "draw"),
        )
        with ExitStack() as stack:
            for name, owner, attribute in places:
                timed = self.timed(name, getattr(owner, attribute))
                stack.enter_context(mock.patch.object(owner, attribute, timed))
            yield


def exams(folder: Path, number: int, size: int) -> tuple[Path, int]:
    """A folder of DICOM files, and how many there are."""
    from densityclip.phantom.generate import generate

    generate(folder, site="internal", exams=number, seed=11, size=size, slice_mm=10)
    return folder / "dicom", len([path for path in (folder / "dicom").rglob("*") if path.is_file()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exams", type=int, default=4)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--overlay", action="store_true")
    options = parser.parse_args()
    from load_bundle import alone

    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: nothing of it is imported here before the start is timed.
        alone("--make", folder)
        found, images = exams(Path(folder) / "exams", options.exams, options.size)
        start = time.process_time()
        from densityclip import steps
        from densityclip.inference.predictor import Predictor
        from densityclip.model.bundle import load_bundle

        bundle = load_bundle(Path(folder) / "bundle")
        bundle.provenance.setdefault("training", {"caches": []})
        predictor = Predictor(bundle, device="cpu")
        begun, clock = time.process_time() - start, Clock()
        # The tower is loaded, once: what follows is what each exam costs.
        # Counting comes first: it wraps methods of the class that the other stands in for.
        with clock.counting(), mock.patch("densityclip.inference.predictor.Predictor", return_value=predictor):
            start, wall = time.process_time(), time.perf_counter()
            steps.predict(found, bundle, Path(folder) / "out", report=True, overlay=options.overlay)
            total, wall = time.process_time() - start, time.perf_counter() - wall
    spent = clock.seconds
    rest = total - sum(spent.values())
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, torch {version('torch')}, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}: {options.exams} exams, {images} files, DM of "
        f"{options.size} rows; start {begun:.1f} s, once; then\n"
    )
    print("| part | s an exam | share |\n|---|---:|---:|")
    for name, seconds in (*spent.items(), ("everything else", rest)):
        print(f"| {name} | {seconds / options.exams:.2f} | {seconds / total:.0%} |")
    print(f"\n{wall:.1f} s on the clock for {total:.1f} s of processor time.")


if __name__ == "__main__":
    main()
