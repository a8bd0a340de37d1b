"""The audit log: who asked what, without names or UIDs of patients."""

import json
import logging
from logging.handlers import WatchedFileHandler
from pathlib import Path

AUDIT_LOG = "audit.log"

_audit = logging.getLogger("densityclip.audit")


def audit(event: str, **facts: str | int) -> None:
    """Write a line of the audit log: who asked what, as JSON, without names or UIDs of patients."""
    _audit.info(json.dumps({"event": event, **facts}, sort_keys=True))


def close_audit(handler: logging.Handler) -> None:
    """Take back what `open_audit` did."""
    _audit.removeHandler(handler)
    handler.close()


def open_audit(path: Path) -> logging.Handler:
    """Let the audit log go to a file, for its owner only; returns the handler, to be removed in the end."""
    # Watched: logrotate may take the file away.
    handler = WatchedFileHandler(path, encoding="utf-8")
    path.chmod(0o600)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"))
    _audit.setLevel(logging.INFO)
    # It is a file, and no talk on the terminal.
    _audit.propagate = False
    _audit.addHandler(handler)
    return handler
