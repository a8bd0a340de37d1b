"""Runs the commands of the page about listening, as they stand, in order; in namespaces of its own.

Arguments: the page, an empty folder to work in, a bundle. Network: loopback only. `/var/lib` is an empty file system,
so that a store may lie there. Prints, as JSON, each command with its exit code and what it said, and what Orthanc held
after each sending. A command that stays goes on until the end, a listener until the next listener.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from listen_scene import wait_until
from orthanc_scene import call, is_up

STAYS = {
    "Orthanc": None,
    "redis-server": "Ready to accept",
    "densityclip listen": "Listening:",
    "densityclip worker": "Working in",
}
INSTALLS = ("pip ", "apt-get ")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def lines(block: str) -> list[str]:
    return [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]


class Scene:
    def __init__(self) -> None:
        self.said: list[dict] = []
        self._staying: list[tuple[dict, subprocess.Popen, Path]] = []

    def run(self, line: str) -> None:
        if line.startswith(INSTALLS):
            return
        kind = next((kind for kind in STAYS if line.startswith(kind)), None)
        if kind is None:
            done = subprocess.run(["sh", "-ec", line], capture_output=True, text=True, timeout=300, check=False)
            self.said.append({"line": line, "code": done.returncode, "out": done.stdout, "err": done.stderr})
            return
        if kind == "densityclip listen":
            self.stop("densityclip")
        log = Path(f"log-{len(self.said)}")
        with log.open("wb") as file:
            process = subprocess.Popen(shlex.split(line), stdout=file, stderr=subprocess.STDOUT)
        self.said.append({"line": line})
        self._staying.append((self.said[-1], process, log))
        wait_until(lambda: is_up() if STAYS[kind] is None else STAYS[kind] in log.read_text() or process.poll(), 300)

    def stop(self, kind: str = "") -> None:
        """Stop what stays, the last first, as Ctrl-C would."""
        for said, process, log in reversed(self._staying):
            if said["line"].startswith(kind):
                process.send_signal(signal.SIGINT)
                said |= {"code": process.wait(60), "out": log.read_text(), "err": ""}
        self._staying = [one for one in self._staying if "code" not in one[0]]


def delivered(times: int) -> bool:
    """Whether the listeners have delivered so many times."""
    logs = [path.read_text() for path in Path().glob("store*/audit.log")]
    return sum(log.count('"event": "delivered"') for log in logs) >= times


def reports() -> list[dict]:
    return [
        series
        for series in call("/tools/find", b'{"Level": "Series", "Query": {"Modality": "SR"}, "Expand": true}')
        if series["Instances"]
    ]


def main(page: Path, folder: Path, bundle: Path) -> None:
    subprocess.run(["/usr/sbin/ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"], check=True)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), "/usr/sbin", os.environ["PATH"]])
    os.chdir(folder)
    shutil.copytree(bundle, "model/bundle")
    text = page.read_text(encoding="utf-8")
    for name in ("cert", "ca"):
        make = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout {name}-key.pem -out {name}.pem"
        subprocess.run(shlex.split(make), check=True, capture_output=True)
    Path("cert-key.pem").rename("key.pem")
    (config,) = blocks(text, "json")
    Path("orthanc.json").write_text(config)
    scene, kept = Scene(), []
    try:
        for block in blocks(text, "sh"):
            for line in lines(block):
                if '"SR"' in line:
                    wait_until(reports, 120)
                scene.run(line)
                if line.endswith("store -d @images"):
                    wait_until(lambda: delivered(len(kept) + 1), 300)
                    kept.append([instance for series in reports() for instance in series["Instances"]])
    finally:
        scene.stop()
    sys.stdout.write(json.dumps({"said": scene.said, "kept": kept}))


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
