"""A NATS URL that names one server or several, and what is tried when one is lost."""

from __future__ import annotations

import asyncio
from urllib.parse import urlparse

import pytest
from nats.aio.client import Server
from nats.aio.msg import Msg

from enchanted.bus.errors import BusUnavailable
from enchanted.bus.replies import Replies
from enchanted.bus.servers import Servers, another, parse_servers


def test_servers_of_one_login_share_it_with_those_the_cluster_names_itself() -> None:
    assert parse_servers("nats://u:p%40w@a:4222, nats://u:p%40w@b") == Servers(
        urls=["nats://a:4222", "nats://b"], where="a:4222, b:4222", user="u", password="p@w"
    )


def test_servers_of_different_logins_keep_their_own() -> None:
    text = "nats://u:p@a:4222,nats://v:q@b:4222"
    assert parse_servers(text) == Servers(urls=text.split(","), where="a:4222, b:4222")


def test_a_name_alone_is_a_token() -> None:
    assert parse_servers("tls://secret@h:1") == Servers(urls=["tls://h:1"], where="h:1", token="secret")


def test_what_a_message_may_show_of_servers_is_without_credentials() -> None:
    where = parse_servers("nats://u:hidden@[::1]:4222,nats://v:hidden@b:4222").where
    assert "hidden" not in where


def servers(**reconnects: int) -> list[Server]:
    return [Server(uri=urlparse(f"nats://{name}:1"), reconnects=count) for name, count in reconnects.items()]


def test_the_server_that_was_lost_is_tried_after_the_others_and_none_in_a_hurry_twice() -> None:
    assert another(servers(a=0, b=0), "a:1", 0.1)[0].uri.hostname == "b"
    assert another(servers(a=0, b=1), "a:1", 0.1) == (servers(a=0)[0], 0.0)
    assert another(servers(a=1), "a:1", 0.1) == (servers(a=1)[0], 0.1)


async def ask(replies: Replies, what: str, answer: Msg | None = None) -> Msg:
    async def send(reply: str) -> None:
        if answer is not None:
            answer.subject = reply
            await replies.on_reply(answer)

    return await replies.ask(what, False, send, 5.0)


def message(subject: str, data: bytes = b"") -> Msg:
    return Msg(_client=None, subject=subject, data=data)  # type: ignore[arg-type]  # not asked for


@pytest.mark.parametrize(
    ("what", "ends"),
    [
        ("swarm.events.coder.decision.r", True),
        ("$JS.API.STREAM.INFO.ENCHANTED_SWARM", True),
        ("$JS.ACK.ENCHANTED_SWARM.ingest.1.2.3.4.5", True),
        ("swarm.spans.x", False),
        ("$JS.API.INFO", False),
    ],
)
async def test_a_new_leader_ends_what_its_stream_was_asked_and_nothing_else(what: str, ends: bool) -> None:
    replies = Replies("inbox")
    asking = asyncio.create_task(ask(replies, what))
    pausing = asyncio.create_task(replies.pause(0.2, what))
    await asyncio.sleep(0)
    await replies.on_leader(message("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.ENCHANTED_SWARM"))
    assert await pausing is ends
    assert asking.done() is ends
    replies.fail("over")
    with pytest.raises(BusUnavailable, match="new leader" if ends else "over"):
        await asking


async def test_a_cluster_without_a_leader_is_unavailable_and_silent_until_something_is_answered() -> None:
    replies = Replies("inbox")
    for code in (10008, 10009, 10158, 10164):
        body = f'{{"error":{{"code":503,"err_code":{code},"description":"temporarily unavailable"}}}}'.encode()
        with pytest.raises(BusUnavailable, match="temporarily unavailable"):
            await ask(replies, "x", message("", body))
        assert replies.silent_for > 0
    body = b'{"error":{"code":404,"err_code":10014}}'
    assert (await ask(replies, "x", message("", body))).data == body
    assert replies.silent_for == 0
