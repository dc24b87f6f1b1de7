"""A nats-server that can be killed between any two of its steps: what JetStream answers, as far as we ask it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from random import Random
from typing import Any

from enchanted.bus.streams import DEAD_LETTERS_STREAM, EVENTS_STREAM, stream_of
from tests.simulation.loop import OUTSIDE, SimulatedLoop
from tests.simulation.network import Connection, Network
from tests.simulation.parts import Parts
from tests.simulation.pulls import Consumer, Position, disk_after_crash
from tests.simulation.session import Request, ServerSession
from tests.simulation.stream import BEGINNING, Message, Refused, Stream

_API = "$JS.API."
_NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"
_NO_CONSUMER = Refused(10014, "consumer not found", 404)
_NO_MESSAGE = Refused(10037, "no message found", 404)


class SimulatedServer:
    """One server with our two streams."""

    def __init__(self, loop: SimulatedLoop, network: Network, chance: Random, parts: Parts) -> None:
        self._loop = loop
        self._network = network
        self._chance = chance
        self._sessions: dict[ServerSession, None] = {}
        self.streams = {
            name: Stream(name, loop, chance, self._json, window=parts.window, safe=parts.safe_server)
            for name in (EVENTS_STREAM, DEAD_LETTERS_STREAM)
        }
        for stream in self.streams.values():
            stream.on_visible.append(self._work)
        self.consumers: dict[tuple[str, str], Consumer] = {}
        self._older: dict[tuple[str, str], Position] = {}
        self._ready_at = 0.0
        self._paused_until = 0.0
        self.note: Callable[..., None] = lambda *_: None
        self.on_acknowledged: Callable[[int], None] = lambda _: None
        self.on_request: Callable[[Request], None] = lambda _: None
        self.drops_reply: Callable[[], bool] = lambda: False
        network.serve = self._accept

    @property
    def up(self) -> bool:
        return self._network.serve is not None

    @property
    def events(self) -> Stream:
        return self.streams[EVENTS_STREAM]

    @property
    def letters(self) -> Stream:
        return self.streams[DEAD_LETTERS_STREAM]

    def kill(self, *, power: bool) -> None:
        """SIGKILL, or the power goes."""
        if not self.up:
            return
        self._network.serve = None
        for connection in list(self._network.connections):
            connection.cut(late=False)
        for session in list(self._sessions):
            session.close()
        for stream in self.streams.values():
            stream.crash(power=power)
        for key, consumer in list(self.consumers.items()):
            disk = (
                disk_after_crash(consumer, self._chance, self._older.get(key, Position())) if consumer.durable else None
            )
            if disk is None:
                consumer.gone = True
                del self.consumers[key]
            else:
                consumer.crash(disk)

    def start(self, *, ready_after: float) -> None:
        """Listen again; JetStream answers a while later."""
        self._ready_at = self._loop.time() + ready_after
        self._network.serve = self._accept
        self._paused_until = 0.0

    def pause(self, seconds: float) -> None:
        """SIGSTOP and SIGCONT: connections stay, nothing is done."""
        self._paused_until = max(self._paused_until, self._loop.time() + seconds)

    def remember_positions(self) -> None:
        """What a later crash may fall back to."""
        self._older = {key: consumer.position() for key, consumer in self.consumers.items()}

    def delete_consumer(self, stream: str, name: str) -> None:
        """Somebody removes it."""
        consumer = self.consumers.pop((stream, name), None)
        if consumer is not None:
            consumer.gone = True
            consumer.end(b"NATS/1.0 409 Consumer Deleted\r\n\r\n")

    def _accept(self, connection: Connection) -> ServerSession:
        session = ServerSession(connection, self._handle, lambda: self._sessions.pop(session, None))
        self._sessions[session] = None
        self._later(session.greet, None)
        return session

    def _later(self, act: Callable[..., None], request: Request | None) -> None:
        """Now, or when the server goes on."""
        arguments = () if request is None else (request,)
        if self._loop.time() < self._paused_until:
            self._loop.call_at(self._paused_until, act, *arguments, context=OUTSIDE)
        else:
            act(*arguments)

    def _handle(self, request: Request) -> None:
        self._later(self._act, request)

    def _act(self, request: Request) -> None:
        if not self.up:
            return
        self.on_request(request)
        if not self.up:
            return
        if self._loop.time() < self._ready_at:
            self._answer(request.reply, _NO_RESPONDERS, b"")
        elif request.subject.startswith("$JS.ACK."):
            self._acknowledged(request)
        elif request.subject.startswith(_API):
            self._api(request)
        elif stream_of(request.subject) in self.streams:
            self.streams[stream_of(request.subject)].take(request)
        else:
            self._answer(request.reply, _NO_RESPONDERS, b"")

    def _acknowledged(self, request: Request) -> None:
        tokens = request.subject.split(".")
        consumer = self.consumers.get((tokens[2], tokens[3]))
        if consumer is None:
            return
        if consumer.durable:
            self.on_acknowledged(int(tokens[5]))
        consumer.acknowledge(int(tokens[5]))
        if request.reply:
            self._answer(request.reply, b"", b"")

    def _api(self, request: Request) -> None:
        action = request.subject.removeprefix(_API)
        body = json.loads(request.payload) if request.payload else {}
        if action.startswith("CONSUMER.MSG.NEXT."):
            self._next(request, body, *action.removeprefix("CONSUMER.MSG.NEXT.").split("."))
            return
        if action.startswith("DIRECT.GET."):
            self._direct(request, body, self.streams[action.removeprefix("DIRECT.GET.")])
            return
        try:
            answer = self._answer_to(action, body)
        except Refused as refused:
            answer = refused.answer
        self._json(request.reply, answer)

    def _answer_to(self, action: str, body: dict[str, Any]) -> dict[str, Any]:
        words = action.split(".")
        match words:
            case ["INFO"]:
                return {"streams": len(self.streams)}
            case ["STREAM", "NAMES"]:
                return {"streams": [stream_of(body["subject"])]}
            case ["STREAM", "INFO", name]:
                return self._stream_info(self.streams[name])
            case ["STREAM", "MSG", "GET", name]:
                return {"message": _as_json(_found(self.streams[name], body))}
            case ["CONSUMER", "CREATE", stream, name]:
                return self._create(stream, name, body)
            case ["CONSUMER", "INFO", stream, name]:
                if (stream, name) not in self.consumers:
                    raise _NO_CONSUMER
                return self.consumers[stream, name].info()
            case ["CONSUMER", "DELETE", stream, name]:
                self.delete_consumer(stream, name)
                return {"success": True}
        raise AssertionError(f"nothing answers {action}")

    def _create(self, stream: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        consumer = self.consumers.get((stream, name))
        if consumer is None:
            consumer = Consumer(name, self.streams[stream], self._loop, self._deliver, body["config"])
            self.consumers[stream, name] = consumer
        else:
            consumer.configure(body["config"])
        return consumer.info()

    def _next(self, request: Request, body: dict[str, Any], stream: str, name: str) -> None:
        consumer = self.consumers.get((stream, name))
        if consumer is None:
            self._answer(request.reply, _NO_RESPONDERS, b"")
        else:
            consumer.pull(request.reply, body)

    def _direct(self, request: Request, body: dict[str, Any], stream: Stream) -> None:
        seq = body["seq"]
        for _ in range(body["batch"]):
            message = stream.next_on(seq, ())
            if message is None:
                break
            headers = (message.headers or b"NATS/1.0\r\n\r\n")[:-2] + (
                f"Nats-Stream: {stream.name}\r\nNats-Subject: {message.subject}\r\nNats-Sequence: {message.seq}\r\n"
                f"Nats-Time-Stamp: {_rfc3339(message)}\r\n\r\n"
            ).encode()
            self._answer(request.reply, headers, message.payload)
            seq = message.seq + 1
        ended = b"NATS/1.0 404 Message Not Found\r\n\r\n" if seq == body["seq"] else b"NATS/1.0 204 EOB\r\n\r\n"
        self._answer(request.reply, ended, b"")

    @staticmethod
    def _stream_info(stream: Stream) -> dict[str, Any]:
        state = {
            "messages": stream.visible,
            "bytes": 0,
            "first_seq": 1,
            "last_seq": stream.visible,
        }
        return {"created": BEGINNING.isoformat(), "state": state, "config": {"name": stream.name}}

    def _work(self) -> None:
        for consumer in list(self.consumers.values()):
            consumer.work()

    def _json(self, reply: str, answer: dict[str, Any] | None) -> None:
        if reply and not self.drops_reply():
            self._answer(reply, b"", b"" if answer is None else json.dumps(answer).encode())

    def _answer(self, reply: str, headers: bytes, payload: bytes) -> None:
        if reply:
            self._deliver(reply, reply, "", headers, payload)

    def _deliver(self, inbox: str, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        for session in self._sessions:
            sid = session.sid_of(inbox)
            if sid is not None:
                session.send(sid, subject, reply, headers, payload)
                return True
        return False


def _found(stream: Stream, query: dict[str, Any]) -> Message:
    if "last_by_subj" in query:
        message = stream.last_on(query["last_by_subj"])
    elif "next_by_subj" in query:
        message = stream.next_on(query["seq"], [query["next_by_subj"]])
    else:
        message = stream.at(query["seq"])
    if message is None:
        raise _NO_MESSAGE
    return message


def _rfc3339(message: Message) -> str:
    return message.time.isoformat().replace("+00:00", "Z")


def _as_json(message: Message) -> dict[str, Any]:
    return {
        "seq": message.seq,
        "subject": message.subject,
        "time": _rfc3339(message),
        "hdrs": base64.b64encode(message.headers).decode(),
        "data": base64.b64encode(message.payload).decode(),
    }
