"""A cluster of NATS servers, each on a network of its own that can be cut. For tests; needs root.

See tests/chaos/test_cluster.py. A network namespace is held by a process that sleeps, so nothing outlives the test,
whatever ends it: when the sleepers are gone the kernel removes namespaces, bridge and links.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from enchanted.bus.connection import Bus
from enchanted.bus.errors import ApiRefused, BusError
from enchanted.bus.server_config import ClusterNode, render
from enchanted.bus.streams import EVENTS_STREAM, StreamLimits
from enchanted.bus.testing import SMALL_LIMITS, all_stopped
from enchanted.cluster import probes
from enchanted.cluster.nats import binary
from enchanted.cluster.processes import die_with_parent
from enchanted.cluster.service import last_lines

PORT = 4222
ROUTE_PORT = 6222
START_SECONDS = 30.0
CURRENT_SECONDS = 60.0
"""A node that was away for long dials the others again every second, and then reads what it missed."""
_NO_PEERS = 10005
_POLL = 0.05
_SLEEPER = ("unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity")


class NoNamespace(RuntimeError):
    """This process may not make networks."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no network namespace can be made: {why.strip()}; run as root, with iproute2 and util-linux")


class NotCurrent(AssertionError):
    """A node did not catch up with the others."""


class Network:
    """A bridge with a namespace for each node, and one link from it to this process."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._link = f"enc{secrets.token_hex(4)}"
        self._net = ""
        self._switch = 0
        self._sleepers: list[subprocess.Popen[bytes]] = []
        self.namespaces: list[int] = []
        """For each node a process that is in its namespace."""

    def __enter__(self) -> Self:
        try:
            self._switch, *self.namespaces = [self._sleeper() for _ in range(self._size + 1)]
            self._net = _free_net()
            self._make()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def address(self, node: int) -> str:
        """Of a node, counted from 0."""
        return f"{self._net}.{node + 1}"

    def cut(self, node: int) -> None:
        """Nothing reaches the node and nothing leaves it; nobody is told."""
        _ip([f"link set port{node} down"], self._switch)

    def heal(self, node: int) -> None:
        """Undo `cut`."""
        _ip([f"link set port{node} up"], self._switch)

    def separate(self, node: int) -> None:
        """Cut a node off from the other nodes, and not from its clients."""
        _ip([f"route add blackhole {self.address(other)}/32" for other in self._others(node)], self.namespaces[node])

    def join(self, node: int) -> None:
        """Undo `separate`."""
        _ip([f"route del blackhole {self.address(other)}/32" for other in self._others(node)], self.namespaces[node])

    def _others(self, node: int) -> list[int]:
        return [other for other in range(self._size) if other != node]

    def _sleeper(self) -> int:
        try:
            sleeper = subprocess.Popen(
                _SLEEPER,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid()),
            )
        except FileNotFoundError as error:
            raise NoNamespace(str(error)) from error
        self._sleepers.append(sleeper)
        assert sleeper.stdout is not None
        assert sleeper.stderr is not None
        if not sleeper.stdout.readline():
            raise NoNamespace(sleeper.stderr.read().decode())
        return sleeper.pid

    def _make(self) -> None:
        _ip(
            [
                f"link add {self._link} type veth peer name client netns {self._switch}",
                f"addr add {self._net}.254/24 dev {self._link}",
                f"link set {self._link} up",
            ]
        )
        ports = [f"link add port{k} type veth peer name eth0 netns {pid}" for k, pid in enumerate(self.namespaces)]
        plugs = ["client", *(f"port{node}" for node in range(self._size))]
        _ip(["link add bridge type bridge", "link set bridge up", *ports], self._switch)
        _ip([f"link set {plug} master bridge up" for plug in plugs], self._switch)
        for node, pid in enumerate(self.namespaces):
            _ip(["link set lo up", f"addr add {self.address(node)}/24 dev eth0", "link set eth0 up"], pid)

    def _end(self) -> None:
        for sleeper in self._sleepers:
            sleeper.kill()
        for sleeper in self._sleepers:
            sleeper.communicate()
        # The kernel removes it a little later with the switch; a test that comes next finds it gone at once.
        subprocess.run(["ip", "link", "del", self._link], capture_output=True)


def _free_net() -> str:
    """The first three numbers of a /24 that no interface here is in."""
    routes = _run("ip", "-4", "route", "show", "table", "all")
    while True:
        net = f"10.{random.randrange(1, 255)}.{random.randrange(256)}"
        if f"{net}." not in routes:
            return net


def _ip(commands: Sequence[str], namespace: int = 0) -> None:
    inside = ["nsenter", f"--net=/proc/{namespace}/ns/net"] if namespace else []
    _run(*inside, "ip", "-batch", "-", text="\n".join(commands))


def _run(*command: str, text: str = "") -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoNamespace(str(error)) from error
    if done.returncode:
        raise NoNamespace(done.stderr or done.stdout)
    return done.stdout


class Node:
    """One server of the cluster. It can be killed, stopped and cut off, and comes back with what its disk has."""

    def __init__(self, number: int, network: Network, folder: Path, cluster: str, password: str) -> None:
        self.name = f"n{number + 1}"
        self.address = f"{network.address(number)}:{PORT}"
        self.url = f"nats://app:{password}@{self.address}"
        self.pids: list[int] = []
        """Every process it has been, the present one last."""
        self._number = number
        self._network = network
        self._folder = folder / self.name
        self._cluster = cluster
        self._password = password
        self._process: asyncio.subprocess.Process | None = None

    def configure(self, size: int) -> None:
        """Write its configuration file."""
        address = self._network.address
        self._folder.mkdir(parents=True, exist_ok=True)
        cluster = ClusterNode(
            server=self.name,
            cluster=self._cluster,
            host=address(self._number),
            port=ROUTE_PORT,
            routes=[f"{address(other)}:{ROUTE_PORT}" for other in range(size) if other != self._number],
            password=self._password,
        )
        text = render(
            host=address(self._number),
            port=PORT,
            store_dir=self._store,
            user="app",
            password=self._password,
            sys_user="sys",
            sys_password=self._password,
            cluster=cluster,
        )
        self._config.write_text(text)

    async def start(self) -> None:
        """Start the process; returns when it lets clients in."""
        with (self._folder / "nats.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "nsenter",
                f"--net=/proc/{self._network.namespaces[self._number]}/ns/net",
                binary(),
                "--config",
                self._config,
                stdout=log,
                stderr=log,
                preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid()),
            )
        # nsenter becomes the server, so this is the server's own id.
        self.pids.append(self._process.pid)
        await probes.until_ready(partial(probes.nats, self.url), deadline=START_SECONDS)

    async def kill(self) -> int:
        """SIGKILL: nothing is flushed; returns the process id that was. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()
        return self.pids[-1] if self.pids else 0

    async def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers. Returns when every thread has stopped."""
        os.kill(self.pids[-1], signal.SIGSTOP)
        async with asyncio.timeout(5.0):
            while not all_stopped(self.pids[-1]):  # noqa: ASYNC110  # /proc has no event for it
                await asyncio.sleep(0.002)

    async def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pids[-1], signal.SIGCONT)

    async def cut(self) -> None:
        """The network does not carry anything to or from it."""
        self._network.cut(self._number)

    async def heal(self) -> None:
        """The network does again."""
        self._network.heal(self._number)

    async def separate(self) -> None:
        """It does not reach the other nodes; its clients reach it."""
        self._network.separate(self._number)

    async def join(self) -> None:
        """It reaches them again."""
        self._network.join(self._number)

    def said(self, lines: int) -> str:
        """The end of its log."""
        return "\n".join(last_lines(self._folder / "nats.log", lines))

    def wipe(self) -> None:
        """Lose its disk. The server must not run."""
        assert self._process is None
        shutil.rmtree(self._store)

    @property
    def _config(self) -> Path:
        return self._folder / "server.conf"

    @property
    def _store(self) -> Path:
        return self._folder / "store"


class NodeCluster:
    """The nodes together, and what they say about themselves."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        self.url = ",".join(node.url for node in nodes)
        """Of all nodes, as ENCHANTED_NATS_URL takes it."""

    async def leader(self, stream: str = EVENTS_STREAM) -> Node:
        """The node that leads a stream; while one is being elected, whoever is."""
        async with Bus.connect(self.url, name="leader") as bus, asyncio.timeout(CURRENT_SECONDS):
            while True:
                leads = (await bus.link.api(f"STREAM.INFO.{stream}"))["cluster"].get("leader")
                if found := [node for node in self.nodes if node.name == leads]:
                    return found[0]
                await asyncio.sleep(_POLL)

    async def make_leader(self, node: Node, stream: str = EVENTS_STREAM) -> None:
        """Have the stream led by that node; all must be well."""
        async with Bus.connect(self.url, name="leader") as bus, asyncio.timeout(CURRENT_SECONDS):
            while await self.leader(stream) is not node:
                with contextlib.suppress(ApiRefused):
                    wish = {"placement": {"preferred": node.name}}
                    await bus.link.api(f"STREAM.LEADER.STEPDOWN.{stream}", wish)
                await asyncio.sleep(_POLL)

    async def until_current(self) -> None:
        """Wait until every replica of every stream has everything.

        Raises:
            NotCurrent: one does not within a minute.
        """
        deadline, behind = time.monotonic() + CURRENT_SECONDS, ["nobody answers"]
        async with Bus.connect(self.url, name="current", connect_timeout=CURRENT_SECONDS) as bus:
            while behind:
                if time.monotonic() > deadline:
                    raise NotCurrent(", ".join(behind))
                await asyncio.sleep(_POLL)
                behind = await self._behind(bus)

    async def _behind(self, bus: Bus) -> list[str]:
        """What is not as it should be."""
        try:
            listed = await bus.link.api("STREAM.LIST", {}, patience=1.0)
        except BusError as error:
            return [str(error)]
        found = [f"{missing} does not answer" for missing in listed.get("missing") or ()]
        for stream in listed["streams"] or ():
            found += _laggards(stream)
        return found


def _laggards(stream: dict[str, Any]) -> list[str]:
    name, cluster, wanted = stream["config"]["name"], stream.get("cluster") or {}, stream["config"]["num_replicas"]
    replicas = cluster.get("replicas") or []
    if not cluster.get("leader") or len(replicas) != wanted - 1:
        return [f"{name}: {cluster}"]
    return [f"{name}: {peer}" for peer in replicas if not peer["current"] or peer.get("offline") or peer.get("lag")]


@asynccontextmanager
async def node_cluster(
    folder: Path, *, size: int = 3, limits: StreamLimits | None = None
) -> AsyncIterator[NodeCluster]:
    """A running cluster with our streams, ended with the block; by default each stream is on every node."""
    with Network(size) as network:
        password, cluster = secrets.token_hex(8), f"chaos-{secrets.token_hex(4)}"
        nodes = [Node(number, network, folder, cluster, password) for number in range(size)]
        try:
            for node in nodes:
                node.configure(size)
            await asyncio.gather(*(node.start() for node in nodes))
            running = NodeCluster(nodes)
            await _make_streams(running, limits or replace(SMALL_LIMITS, replicas=size))
            yield running
        finally:
            await asyncio.gather(*(node.kill() for node in nodes))


async def _make_streams(cluster: NodeCluster, limits: StreamLimits) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with Bus.connect(cluster.url, name="setup") as bus:
        while True:
            try:
                await bus.ensure_streams(limits)
                break
            except ApiRefused as error:
                # The nodes are still finding each other.
                if error.err_code != _NO_PEERS or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL)
    await cluster.until_current()
