"""What a worker that reads headers needs at its start, and what it does without."""

import os
import subprocess
import sys

from densityclip.datasets.looking import WORKER_IMPORTS, HeaderRules, look_at_files
from densityclip.worker_pool import start_early, worker_pool


def test_workers_read_headers_without_polars() -> None:
    # Its threads would be missing in a fork, and importing it takes as long as pydicom.
    code = f"import sys, {', '.join(WORKER_IMPORTS)}; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_pool_works_whoever_started_its_server_and_with_what(tmp_path) -> None:
    rows = [{"path": str(tmp_path / "none"), "reason": None}]
    for imports in ((), WORKER_IMPORTS):
        start_early(imports)
        with worker_pool(1, imports=imports) as pool:
            assert pool.submit(look_at_files, rows, HeaderRules()).result()[0]["reason"] == "missing_file"
            assert pool.submit(os.getpid).result() != os.getpid()
