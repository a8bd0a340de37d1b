"""The web service with a stand-in for the model, in a process that tests may kill."""

import subprocess
import sys
from pathlib import Path


class Service:
    def __init__(self, store: Path, *key: str) -> None:
        script = Path(__file__).parent / "service_samples.py"
        self.process = subprocess.Popen([sys.executable, script, store, *key], stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)
