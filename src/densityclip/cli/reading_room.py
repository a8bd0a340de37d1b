"""Commands that stay and answer over the network."""

from pathlib import Path
from typing import Annotated

import typer

from densityclip.cli.options import Workers, open_model

OwnWorkers = Annotated[
    int, typer.Option("--workers", min=0, help="Worker processes; 0 where `densityclip worker` runs on the same store.")
]

Queue = Annotated[
    str | None,
    typer.Option(
        "--queue",
        envvar="DENSITYCLIP_QUEUE",
        help="Redis server by which workers hear of what is to be answered, redis://host:6379/0; without it, a file.",
    ),
]


def listen(
    model: Annotated[Path, typer.Option(help="Bundle.")],
    store: Annotated[Path, typer.Option(help="Folder on this machine's disk for all that must not be lost.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port.")] = 11112,
    address: Annotated[str, typer.Option(help="Local address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    ae_title: Annotated[str, typer.Option("--ae-title", help="Our AE title.")] = "DENSITYCLIP",
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Who gets answers: dicom://AE@host:port, dicoms://, https://host/dicom-web; may be repeated."
        ),
    ] = None,
    give_up_peer: Annotated[
        list[str] | None,
        typer.Option(help="A former --peer that will not come back: what waits for it is dropped; may be repeated."),
    ] = None,
    allow_ae: Annotated[
        list[str] | None, typer.Option("--allow-ae", help="AE title that may send; may be repeated.")
    ] = None,
    allow_address: Annotated[
        list[str] | None, typer.Option("--allow-address", help="Address or network that may send; may be repeated.")
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Send pictures of where the model looked too.")] = False,
    discard_reports: Annotated[
        bool,
        typer.Option("--discard-reports", help="Say success to reports and presentation states too, and drop them."),
    ] = False,
    quiet_time: Annotated[float, typer.Option(help="Seconds without an image until an exam is complete.")] = 30.0,
    workers: OwnWorkers = 1,
    queue: Queue = None,
    associations: Annotated[int, typer.Option(min=1, help="Associations at once.")] = 8,
    max_mb: Annotated[int, typer.Option(min=1, help="Megabytes of one image.")] = 1024,
    job_seconds: Annotated[float, typer.Option(min=1, help="Time limit of an exam.")] = 600.0,
    job_gb: Annotated[float, typer.Option(min=0.5, help="Memory limit of a worker, gigabytes.")] = 12.0,
    keep_hours: Annotated[float, typer.Option(min=0, help="Until images and answers go, after delivery.")] = 24.0,
    keep_failed_hours: Annotated[float, typer.Option(min=0, help="The same for exams without an answer.")] = 168.0,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, PEM: TLS only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Who vouches for clients, PEM.")] = None,
) -> None:
    """Listen for exams as a DICOM Storage SCP, and send structured reports on.

    Example: densityclip listen --model model/bundle --store /var/lib/densityclip --peer dicom://PACS@10.0.0.5:104
    """
    from densityclip import terminal
    from densityclip.deliver.limits import Limits
    from densityclip.deliver.listen_service import ListenSettings, listen_with_bundle
    from densityclip.deliver.listener import Port, tls_of
    from densityclip.deliver.peers import parse_peer

    open_model(model)
    limits = Limits(
        associations=associations,
        instance_bytes=max_mb << 20,
        job_seconds=job_seconds,
        job_bytes=int(job_gb * (1 << 30)),
    )
    tls = tls_of(tls_cert, tls_key, tls_client_ca)
    titles, networks = tuple(allow_ae or ()), tuple(allow_address or ())
    settings = ListenSettings(
        store,
        Port(ae_title, address, port, titles, networks, tls, limits, discard_reports),
        tuple(parse_peer(text, calling=ae_title) for text in peer or ()),
        tuple(parse_peer(text, calling=ae_title).name for text in give_up_peer or ()),
        quiet_seconds=quiet_time,
        keep_hours=keep_hours,
        keep_failed_hours=keep_failed_hours,
        workers=workers,
        queue=queue,
    )
    listen_with_bundle(settings, model, say=terminal.say, overlay=overlay)


def serve(
    model: Annotated[Path, typer.Option(help="Bundle.")],
    store: Annotated[Path, typer.Option(help="Folder for uploads and answers, on a local disk.")] = Path("served"),
    host: Annotated[str, typer.Option(help="Local address to listen on; another than this machine needs keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")] = 8080,
    name: Annotated[
        list[str] | None, typer.Option(help="Host name by which browsers may call it; may be repeated.")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="Who may ask: a name and a key a line.")] = None,
    dicomweb: Annotated[
        list[str] | None,
        typer.Option(help="Server whose studies may be asked for, NAME=https://host/dicom-web; may be repeated."),
    ] = None,
    max_upload_mb: Annotated[int, typer.Option(min=1, help="Megabytes of one upload.")] = 2048,
    max_files: Annotated[int, typer.Option(min=1, help="Files of one upload; an archive is one.")] = 500,
    keep_hours: Annotated[float, typer.Option(help="How long answers stay.")] = 1.0,
    workers: OwnWorkers = 1,
    queue: Queue = None,
    job_seconds: Annotated[float, typer.Option(min=1, help="Time limit of an upload's answer.")] = 600.0,
    job_gb: Annotated[float, typer.Option(min=0.5, help="Memory limit of a worker, gigabytes.")] = 12.0,
) -> None:
    """Serve a page and a REST interface: upload exams, get density, structured reports and overlays.

    Example: densityclip serve --model model/bundle

    Example: densityclip serve --model model/bundle --host 0.0.0.0 --api-key-file keys.txt --keep-hours 4
    """
    from densityclip import terminal
    from densityclip.deliver.api_keys import ApiKeys, read_api_keys
    from densityclip.deliver.limits import Limits
    from densityclip.deliver.receive import UploadLimits
    from densityclip.deliver.retrieve import parse_servers
    from densityclip.deliver.serve import ServeSettings, serve_with_bundle

    settings = ServeSettings(
        store,
        host,
        port,
        ApiKeys() if api_key_file is None else read_api_keys(api_key_file),
        keep_hours=keep_hours,
        workers=workers,
        queue=queue,
        upload=UploadLimits(upload_bytes=max_upload_mb << 20, files=max_files),
        limits=Limits(job_seconds=job_seconds, job_bytes=int(job_gb * (1 << 30)), attempts=2),
        names=tuple(name or ()),
        servers=parse_servers(dicomweb or []),
    )
    serve_with_bundle(settings, open_model(model), say=terminal.say)


def worker(
    store: Annotated[Path, typer.Option(help="Folder of a `listen` or `serve` on this machine.")],
    workers: Workers = 1,
) -> None:
    """Answer what waits in the store of a `listen` or `serve`, beside it; several may be started.

    Example: densityclip worker --store /var/lib/densityclip
    """
    import threading

    from densityclip import terminal
    from densityclip.deliver.listen_service import told_to_end
    from densityclip.deliver.shared_work import work_beside

    stop = threading.Event()
    with told_to_end(stop.set):
        work_beside(
            store, stop, workers=workers, began=lambda order: terminal.say(f"Working in {store} with {order.bundle}.")
        )
    terminal.say("Stopped. What was not finished, others go on with.")
