"""Serving a reader study to browsers."""

import socket
from pathlib import Path

from noduleforge.readers.answers import Answers
from noduleforge.readers.study import read_study

LOOPBACK = "127.0.0.1"


def serve(study: Path, readers: int = 2, host: str = LOOPBACK, port: int = 8321) -> None:
    """Serve a study to its readers' browsers, until Control-C.

    Prints an address with a secret word for each reader, the same ones each time; who has it reads
    as this reader. An answer is on disk before the next case is shown, and a sitting goes on where
    it was left. Nothing is asked of the network.

    Args:
        study: folder of `noduleforge readers new`; answers go to `answers.sqlite` in it.
        readers: number of readers; more can be added later.
        host: the interface's own address. Other computers reach this one if it is not the
            loopback's; what they send is not encrypted, so name one of a network that is trusted.
        port: of the address.

    Raises:
        FileNotFoundError: If there is no study.
        ValueError: If a setting is out of its range, the address cannot be used, or the extra
            `readers` is not installed.
    """
    if readers < 1:
        message = f"readers is {readers}: give at least 1"
        raise ValueError(message)
    if not 0 <= port < 2**16:
        message = f"port is {port}: give one from 0 (any that is free) to 65535"
        raise ValueError(message)
    if host in ("", "0.0.0.0", "::"):
        message = f"host is {host!r}, which is every interface: give the address of one"
        raise ValueError(message)
    try:
        import uvicorn

        from noduleforge.readers.server import application
    except ModuleNotFoundError as error:
        message = f"{error.name} is missing: pip install 'noduleforge[readers]'"
        raise ValueError(message) from error
    known, answers = read_study(study), Answers(study)
    with listening_socket(host, port) as listening:
        address = f"{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        app = application(known, answers, readers, [host, "localhost"])
        for reader, token in answers.tokens(readers).items():
            if reader <= readers:
                print(f"reader {reader}: http://{address}/{token}/", flush=True)
        print("Control-C ends the server; answers are kept.", flush=True)
        settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(settings).run(sockets=[listening])


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket on an address.

    Raises:
        ValueError: If it cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        message = (
            f"{host} port {port} cannot be used ({error.strerror or error}): give another --port, "
            "or a --host of this computer"
        )
        raise ValueError(message) from error
