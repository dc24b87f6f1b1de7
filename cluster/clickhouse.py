"""The embedded store as a supervised process."""

from __future__ import annotations

from enchanted.cluster import probes
from enchanted.cluster.home import Home
from enchanted.cluster.ports import LOOPBACK
from enchanted.cluster.service import Command, python
from enchanted.cluster.store import credentials


class StoreServer:
    """chDB behind the ClickHouse HTTP protocol, its folder in the home."""

    name = "store"
    start_seconds = 60.0
    grace_seconds = 20.0
    """It finishes the inserts it has accepted."""

    def __init__(self, home: Home, port: int) -> None:
        self.port = port
        self._home = home
        self._credentials = home.secrets / "store.json"

    @property
    def url(self) -> str:
        """How the writer connects, credentials and database included."""
        return credentials.load(self._credentials).writer.url(self.port)

    @property
    def reader_url(self) -> str:
        """The same for the reader."""
        return credentials.load(self._credentials).reader.url(self.port)

    def command(self) -> Command:
        """Starts on the same folder and port each time."""
        credentials.load(self._credentials)
        options = {
            "--folder": self._home.store,
            "--port": self.port,
            "--host": LOOPBACK,
            "--credentials": self._credentials,
        }
        flags = [str(part) for pair in options.items() for part in pair]
        return Command(argv=[*python("enchanted.cluster.store"), *flags])

    async def probe(self) -> None:
        """Ask as any ClickHouse client does first."""
        await probes.http(f"http://{LOOPBACK}:{self.port}/ping")
