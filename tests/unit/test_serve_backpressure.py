"""Who sends an answer behind Ray Serve waits for whoever takes it."""

from __future__ import annotations

import asyncio

from ray.serve._private.http_util import MessageQueue
from starlette.types import Message, Receive, Scope, Send

from enchanted.serve.backpressure import Backpressure, queue_of

PIECE = b"x" * 100


def behind_serve(queue: MessageQueue) -> Send:
    """As Serve's replica makes it for each request."""

    async def enqueue(item: Message) -> None:
        queue.put_nowait(item)

    return enqueue


async def nothing() -> Message:
    return {"type": "http.disconnect"}


class Sender:
    """An app that counts the pieces it has sent."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(self.pieces):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            self.sent += 1


async def test_no_more_is_sent_than_may_wait_until_it_is_taken() -> None:
    queue, app = MessageQueue(), Sender(20)
    sending = asyncio.create_task(Backpressure(app, most=500)({"type": "http"}, nothing, behind_serve(queue)))
    taken = 0
    async with asyncio.timeout(60):
        while not sending.done():
            await asyncio.sleep(0.03)
            messages = queue.get_messages_nowait()
            assert sum(len(one.get("body", b"")) for one in messages) <= 600
            taken += len(messages)
    assert (app.sent, taken) == (20, 21)


async def test_who_waits_can_be_cancelled() -> None:
    app = Sender(20)
    sending = asyncio.create_task(Backpressure(app, most=0)({"type": "http"}, nothing, behind_serve(MessageQueue())))
    await asyncio.sleep(0.03)
    sending.cancel()
    await asyncio.wait({sending})
    assert sending.cancelled()
    assert app.sent == 0


async def test_the_send_of_another_server_is_left_alone() -> None:
    got = list[Message]()

    async def send(message: Message) -> None:
        got.append(message)

    given = list[Send]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given.append(send)

    await Backpressure(app)({"type": "http"}, nothing, send)
    assert given == [send]
    assert queue_of(send) is None
