"""``python -m enchanted`` is the ``enchanted`` command, and the console script begins here too."""

import os
import signal
from types import FrameType

INTERRUPTED = 130


def _end(_: int, __: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def main() -> None:
    """Run the command line; a Ctrl-C while its modules are still being imported ends it without a traceback."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # ignored where a shell without job control runs it in the background
        signal.signal(signal.SIGINT, _end)
    from enchanted.cluster import cli

    signal.signal(signal.SIGINT, usual)
    cli.main()


if __name__ == "__main__":
    main()
