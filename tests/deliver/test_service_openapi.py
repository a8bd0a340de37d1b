"""The interface as it is described: schemathesis sends what the description allows and what it does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from service_process import Service

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.mark.parametrize("key", [(), ("k" * 30,)], ids=["without keys", "with keys"])
def test_every_answer_is_one_that_the_description_names(tmp_path, key):
    if not (SCHEMATHESIS.is_file() or shutil.which("schemathesis")):
        pytest.skip("schemathesis is not installed")
    service = Service(tmp_path / "store", *key)
    try:
        # As a program: its plugin for pytest does not work with pytest 9.
        done = subprocess.run(
            [
                *(SCHEMATHESIS, "run", f"{service.url}/api/openapi.json", "--max-examples", "15", "--seed", "1"),
                *("--phases", "examples,coverage,fuzzing", "--no-color"),
                # That a file has to be an image cannot be said in a description.
                *("--exclude-checks", "positive_data_acceptance"),
                *(part for one in key for part in ("--header", f"X-API-Key: {one}")),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        assert service.process.poll() is None
    finally:
        service.stop()
