"""The listener with a stand-in for the model, as a process that tests may kill; prints `open` when its port is.

Arguments: store, port, quiet seconds, workers, URL of a queue or "", peers.
"""

import signal
import sys
import threading
from pathlib import Path

from listen_samples import make_stand_in

from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.listen_service import ListenSettings, listen
from densityclip.deliver.listener import Port
from densityclip.deliver.peers import parse_peer
from densityclip.deliver.shared_work import WorkOrder

SOON = Pauses(first=0.2, factor=1.5, longest=1)


def main() -> None:
    store, port, quiet, workers, queue, *peers = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = ListenSettings(
        Path(store),
        Port(port=int(port), limits=Limits(reserve_bytes=0)),
        tuple(parse_peer(peer, calling="DENSITYCLIP") for peer in peers),
        quiet_seconds=float(quiet),
        workers=int(workers),
        queue=queue or None,
        job_pauses=SOON,
        peer_pauses=SOON,
    )
    listen(
        settings,
        make_stand_in,
        stop,
        opened=lambda _: sys.stdout.write("open\n") and sys.stdout.flush(),
        order=WorkOrder("listen", Path("none"), settings.port.limits, SOON, queue=settings.queue),
    )


if __name__ == "__main__":
    main()
