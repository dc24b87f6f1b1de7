"""Who may ask the store: the writer may do everything, the reader may read."""

from __future__ import annotations

import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from enchanted.cluster.home import write_once
from enchanted.cluster.store.errors import AuthenticationFailed, CredentialsUnreadable

DATABASE = "enchanted"

Right = Literal["writer", "reader"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """A user name and its password."""

    user: str
    password: str

    def url(self, port: int, host: str = "127.0.0.1") -> str:
        """``http://user:password@host:port/database``, as every ClickHouse client of ours takes it."""
        return f"http://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{host}:{port}/{DATABASE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """The two logins of one store."""

    writer: Login
    reader: Login

    def right(self, user: str, password: str) -> Right:
        """What this login may do.

        Raises:
            AuthenticationFailed: it is neither of the two.
        """
        logins: tuple[tuple[Right, Login], ...] = (("writer", self.writer), ("reader", self.reader))
        given = f"{user}\0{password}".encode()
        found = [right for right, one in logins if hmac.compare_digest(given, f"{one.user}\0{one.password}".encode())]
        if not found:
            raise AuthenticationFailed(user)
        return found[0]


def load(path: Path) -> Credentials:
    """Read the file; make it, with new passwords and mode 0600, where it does not exist.

    Raises:
        CredentialsUnreadable: the file is there and is not one of ours.
    """
    if not path.exists():
        create(path)
    try:
        document = json.loads(path.read_text())
        return Credentials(writer=Login(**document["writer"]), reader=Login(**document["reader"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CredentialsUnreadable(path, str(error)) from error


def create(path: Path) -> Credentials:
    """Write new random passwords; a file that already exists is kept."""
    fresh = Credentials(
        writer=Login(user="enchanted", password=secrets.token_urlsafe(24)),
        reader=Login(user="reader", password=secrets.token_urlsafe(24)),
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_once(path, json.dumps(asdict(fresh)))
    return load(path)
