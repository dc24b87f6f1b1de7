"""The credit of a pull consumer against a server that serves its pulls in turn, as nats-server does."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchanted.bus.credit import Credit, Pull

MESSAGES, BYTES = 40, 4_000


@dataclass(slots=True)
class _Open:
    pull: Pull
    messages: int
    bytes: int


@dataclass(slots=True)
class _Server:
    """What nats-server does with pulls and messages; its last words come when they are `tell`ed."""

    pulls: deque[_Open] = field(default_factory=deque)
    words: list[tuple[int, int, int, bool]] = field(default_factory=list)

    def ask(self, credit: Credit) -> None:
        while (pull := credit.ask()) is not None:
            self.pulls.append(_Open(pull, pull.messages, pull.bytes))

    def deliver(self, size: int) -> bool:
        while self.pulls:
            one = self.pulls.popleft()
            if size > one.bytes:
                self.words.append((one.pull.number, one.messages, one.bytes, True))
                continue
            one.bytes -= size
            # At no byte left it ends without a word, whatever is left of its messages.
            one.messages = one.messages - 1 if one.bytes else 0
            if one.messages:
                self.pulls.append(one)
            elif one.bytes:
                self.words.append((one.pull.number, 0, one.bytes, False))
            return True
        return False

    def expire(self) -> None:
        self.words += [(one.pull.number, one.messages, one.bytes, False) for one in self.pulls]
        self.pulls.clear()

    def tell(self, credit: Credit) -> None:
        for number, messages, size, too_small in self.words:
            credit.ended(number, messages, size, too_small=too_small)
        self.words.clear()


@dataclass(slots=True)
class _Reader:
    """A consumer's side: what came and was not taken."""

    credit: Credit = field(default_factory=lambda: Credit(MESSAGES, BYTES))
    server: _Server = field(default_factory=_Server)
    waiting: deque[int] = field(default_factory=deque)

    def deliver(self, size: int) -> bool:
        delivered = self.server.deliver(size)
        if delivered:
            self.credit.arrived(size)
            self.waiting.append(size)
        return delivered

    def take(self, count: int) -> None:
        taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        self.credit.taken(len(taken), sum(taken))

    def tell(self, _: int) -> None:
        self.server.tell(self.credit)

    def ask(self, _: int) -> None:
        self.server.ask(self.credit)

    def expire(self, _: int) -> None:
        self.server.expire()

    def check(self) -> None:
        assert sum(one.messages for one in self.server.pulls) + len(self.waiting) <= MESSAGES
        assert sum(one.bytes for one in self.server.pulls) + sum(self.waiting) <= BYTES
        assert self.credit.asking or not self.server.pulls


steps = st.lists(
    st.one_of(
        st.integers(1, BYTES).map(lambda size: ("deliver", size)),
        st.sampled_from([("deliver", 50), ("deliver", 100), ("deliver", BYTES // 4)]),
        st.integers(1, MESSAGES).map(lambda count: ("take", count)),
        st.sampled_from([("tell", 0), ("tell", 0), ("ask", 0), ("ask", 0), ("expire", 0)]),
    ),
    max_size=300,
)


@given(steps)
def test_what_is_asked_for_and_what_waits_never_exceed_the_bounds_and_everything_comes(
    todo: list[tuple[str, int]],
) -> None:
    reader = _Reader()
    for what, amount in todo:
        getattr(reader, what)(amount)
        reader.check()
    # Whatever happened before: a reader who takes gets what comes, the largest message that is allowed as well.
    for size in (100, BYTES, 1, BYTES // 2, BYTES - 1, 50):
        for _ in range(6):
            reader.take(MESSAGES)
            reader.tell(0)
            reader.ask(0)
            reader.check()
            if reader.deliver(size):
                break
        else:
            raise AssertionError(f"a message of {size} bytes does not come")


@pytest.mark.parametrize("size", [100, 2_100], ids=["messages run out", "bytes run out"])
def test_while_one_pull_ends_the_other_has_some_left(size: int) -> None:
    messages, most = 10 * MESSAGES, 100 * BYTES
    credit, server = Credit(messages, most), _Server()
    server.ask(credit)
    least = most
    for _ in range(10_000):
        assert server.deliver(size)
        credit.arrived(size)
        credit.taken(1, size)
        if server.words:
            least = min(least, sum(min(one.messages * size, one.bytes) for one in server.pulls))
            server.tell(credit)
            server.ask(credit)
    assert least >= min(messages * size, most) // 10
