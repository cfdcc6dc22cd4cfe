"""The start of the `lightning` command, whose libraries take seconds to be imported."""

import signal
import sys


def main() -> None:
    """Run the command; Control-C while it is being imported ends it in one line."""
    try:
        from lightning_modules.cli import main as command
    except KeyboardInterrupt as stopped:
        sys.stderr.write("Stopped before anything was done.\n")
        raise SystemExit(128 + signal.SIGINT) from stopped
    command()
