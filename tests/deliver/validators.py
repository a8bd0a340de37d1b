"""The three programs that judge what we emit; a test that needs one that is missing skips with the package's name."""

import shutil
import subprocess
from pathlib import Path

import pytest

_PIXELMED = Path("/usr/share/java/pixelmed.jar")
# Seconds; PixelMed's validator takes most of a minute a report on an idle machine, and a busy one is no failure.
_PATIENCE = 900
# Java's own limits on XPath refuse the validator's style sheets since Java 17.
_JAVA_LIMITS = [f"-Djdk.xml.xpath{name}=0" for name in ("ExprGrpLimit", "ExprOpLimit", "TotalOpLimit")]


def dciodvfy(path: Path) -> list[str]:
    """Errors that dciodvfy finds."""
    _need("dciodvfy", "dicom3tools")
    # Only file arguments: with anything else it waits for standard input.
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False, timeout=_PATIENCE)
    said = (done.stdout + done.stderr).splitlines()
    assert any("Comprehensive3DSR" in line or "SCImage" in line for line in said), said
    return [line for line in said if line.startswith("Error")]


def dsrdump(path: Path) -> str:
    """What dcmtk's dsrdump reads, long texts whole."""
    _need("dsrdump", "dcmtk")
    done = subprocess.run(["dsrdump", "+Pl", path], capture_output=True, text=True, check=False, timeout=_PATIENCE)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def pixelmed(path: Path) -> list[str]:
    """Errors that PixelMed's DicomSRValidator finds."""
    _need("java", "default-jre-headless")
    if not _PIXELMED.is_file():
        pytest.skip("PixelMed's DicomSRValidator (Debian package pixelmed-apps) is not installed")
    command = ["java", *_JAVA_LIMITS, "-cp", str(_PIXELMED), "com.pixelmed.validate.DicomSRValidator", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    said = (done.stdout + done.stderr).splitlines()
    assert "IOD validation complete" in said, said[-5:]
    return [line for line in said if line.startswith("Error")]


def _need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} (Debian package {package}) is not installed")
