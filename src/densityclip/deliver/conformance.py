"""The conformance statement (PS3.2) of the listener, made from what the code accepts and sends.

`python -m densityclip.deliver.conformance > docs/conformance.md` writes the documents' page.
"""

import sys
from collections.abc import Iterable

from pydicom.uid import UID

from densityclip.deliver.limits import GIBIBYTE, Limits
from densityclip.deliver.listener import (
    CANNOT_UNDERSTAND,
    OUT_OF_RESOURCES,
    REPORT_CLASSES,
    STORAGE_CLASSES,
    SUCCESS,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    Port,
)
from densityclip.deliver.retrieve import ACCEPT

SENT_CLASSES: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR Storage",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage (with `--overlay`)",
}
"""What answers are; sent in the transfer syntax that they were written in, Explicit VR Little Endian."""


_PAGE = """\
# DICOM conformance statement

`densityclip listen` and `densityclip serve`. Research use only; not a medical device. Written by
`python -m densityclip.deliver.conformance` from what the code accepts and sends; a test compares the two.

## Roles

| service | SOP class | role |
|---|---|---|
{roles}

`densityclip serve --dicomweb` is also a user agent of WADO-RS: Retrieve Study, with `Accept:
{accept}`. It follows no redirect.

No other service: no query, no retrieve, no storage commitment, no worklist. No extended negotiation; role selection
and asynchronous operations are not used.

## Transfer syntaxes that are accepted

Each with every storage class that is received; the bytes are kept as they came. What is dropped comes in one of the
first four.

| transfer syntax | UID |
|---|---|
{syntaxes}

Answers are sent in Explicit VR Little Endian.

## Association policies

- AE title `{title}`, address {address}, port {port} unless told otherwise. The called AE title must be ours.
- Calling AE titles and addresses may be restricted; others get A-ASSOCIATE-RJ (permanent, calling AE title not
  recognised).
- {associations} associations at once unless told otherwise; one more gets A-ASSOCIATE-RJ (transient, local limit
  exceeded).
- An image of more than {gibibytes} GiB (unless told otherwise), or a PDU longer than the 1 MiB that was negotiated,
  ends its association.
- TLS 1.2 or newer on request, with or without certificates of clients. No user identity negotiation.

## Statuses of C-STORE

| status | meaning here |
|---|---|
{statuses}

## What answers say

SOP Instance UIDs of answers derive from those of the images and from the model, so the same exam has the same objects.
Patient and study are copied from the images. Reports are UNVERIFIED and PRELIMINARY. Images are not changed and not
sent on.
"""


def as_page() -> str:
    """The statement as a page of the documents, in Markdown."""
    port, limits = Port(), Limits()
    roles = [
        ("Verification", f"`{VERIFICATION}`", "SCP"),
        *((name, f"`{uid}`", "Storage SCP (receives)") for uid, name in STORAGE_CLASSES.items()),
        *((name, f"`{uid}`", "Storage SCP with `--discard-reports` (drops)") for uid, name in REPORT_CLASSES.items()),
        *((name, f"`{uid}`", "Storage SCU, STOW-RS user agent (sends)") for uid, name in SENT_CLASSES.items()),
    ]
    full = f"No room on the disk, or an exam of more than {limits.exam_instances} instances. Send it again later."
    odd = "The header cannot be read, has no valid Study Instance UID, or another SOP Instance UID than the message."
    statuses = [
        (
            f"`0x{SUCCESS:04X}`",
            "The instance is on disk (synced). Also for one that was there before, and what `--discard-reports` drops.",
        ),
        (f"`0x{OUT_OF_RESOURCES:04X}`", full),
        (f"`0x{CANNOT_UNDERSTAND:04X}`", odd),
    ]
    return _PAGE.format(
        roles=_rows(roles),
        accept=ACCEPT,
        syntaxes=_rows((UID(uid).name, f"`{uid}`") for uid in TRANSFER_SYNTAXES),
        title=port.ae_title,
        address=port.address,
        port=port.port,
        associations=limits.associations,
        gibibytes=limits.instance_bytes // GIBIBYTE,
        statuses=_rows(statuses),
    )


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(as_page())
