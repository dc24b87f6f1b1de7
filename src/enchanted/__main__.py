"""``python -m enchanted`` is the ``enchanted`` command, and the console script begins here too."""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def _end(_: int, __: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _open_what_is_closed() -> None:
    """Give standard streams that whoever started us has closed to /dev/null, for us and for our children."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115


def main() -> None:
    """Run the command line; a Ctrl-C while its modules are still being imported ends it without a traceback."""
    _open_what_is_closed()
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # ignored where a shell without job control runs it in the background
        signal.signal(signal.SIGINT, _end)
    from enchanted.cluster import cli

    signal.signal(signal.SIGINT, usual)
    cli.main()


if __name__ == "__main__":
    main()
