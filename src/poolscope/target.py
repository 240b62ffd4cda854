"""What a pool connects to, as telemetry names it; never with a user or a password."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

_SYSTEMS = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mariadb",
    "redis": "redis",
    "rediss": "redis",
    "sqlite": "sqlite",
    "mssql": "microsoft.sql_server",
    "oracle": "oracle.db",
    "mongodb": "mongodb",
}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "redis": 6379, "mongodb": 27017}

_URL = re.compile(r"(\w+)(?:\+\w+)?://([^/?#]*)(?:/([^?#]*))?([?#].*)?", re.DOTALL)
"""Scheme without driver, then authority, path, and the rest."""
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\[\]:@]*))(?::([0-9]{1,5})?)?")
"""IP address or name, and port."""
_NAME = re.compile(r"[\w.\\-]*|/.*")
"""A host, with an instance if it is a SQL Server; or the path of a socket."""
_PATH = re.compile(r"[^@;=&]*")
"""A database; with such characters it may be part of a password, or an option."""
_NUMBER = re.compile(r"[0-9]*")
_REST = re.compile(r"[^@]*")


@dataclass(frozen=True, slots=True)
class Target:
    """A server and a database on it, in the words of the semantic conventions for databases."""

    system: str | None = None
    """`db.system.name`, such as `postgresql`."""
    address: str | None = None
    """`server.address`: host name, IP address, or path of a socket. Of several hosts the first."""
    port: int | None = None
    """`server.port`; None for a socket, unless given."""
    namespace: str | None = None
    """`db.namespace`: the database, for SQLite its file, for Redis its number."""

    @classmethod
    def from_url(cls, url: str) -> Target:
        """Read a URL such as `postgresql://user:secret@db.internal/shop`, without its secrets.

        Nothing of the user, the password or the query string is kept.

        Raises:
            ValueError: it is no such URL, or part of a password could be taken for something else.
                The message does not repeat it.
        """
        try:
            return _read(*_match(_URL, url.strip()).groups(default=""))
        except ValueError:
            pass  # and is forgotten: the texts of others may hold what is secret
        known = ", ".join(sorted(_SYSTEMS))
        raise ValueError(
            f"a target must be a URL such as postgresql://host/database ({known} are known), with "
            "special characters in user, password and options quoted"
        )


def _read(scheme: str, authority: str, path: str, rest: str) -> Target:
    """Return what the parts of a URL name. Raises ValueError if one may be part of another."""
    system = _SYSTEMS.get(scheme.lower())
    if system is None:
        raise ValueError
    if system == "sqlite" and not authority:
        return Target(system, namespace=unquote(path) or None)
    # A password with an unquoted / ? or # ends the authority too early, and leaves an @ behind.
    _match(_REST, rest)
    namespace = unquote(_match(_NUMBER if system == "redis" else _PATH, path)[0])
    if system == "redis" and "db=" not in rest:
        namespace = namespace or "0"
    hosts = [_host(each) for each in authority.rpartition("@")[2].split(",")]
    address, port = hosts[0]
    if system == "sqlite" and address:
        raise ValueError
    if address and not address.startswith("/"):
        port = port or _PORTS.get(system)
    return Target(system, address or None, port if address else None, namespace or None)


def _host(text: str) -> tuple[str, int | None]:
    """Return name or address, and port."""
    ip, quoted, port = _match(_HOST, text).groups(default="")
    name = unquote(ip) or _match(_NAME, unquote(quoted))[0]
    if port and not 0 < int(port) < 2**16:
        raise ValueError
    return name if name.startswith("/") else name.lower(), int(port) if port else None


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    if (match := pattern.fullmatch(text)) is None:
        raise ValueError
    return match
