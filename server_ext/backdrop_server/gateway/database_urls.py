"""Which databases a URL may name, and what may be told of it: never its password."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from backdrop_server.errors import SetupError

_ALLOWED = "sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME"


def read_database_url(text: str) -> URL:
    """The URL as SQLAlchemy's; raises SetupError if it names no database that Backdrop can use."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SetupError(f"the database URL can't be read; it must be {_ALLOWED}") from None
    if url.drivername == "postgresql+psycopg":
        return _read_postgresql(url)
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return _read_sqlite(url)
    raise SetupError(f"{url.drivername!r} is no database of Backdrop's; the URL must be {_ALLOWED}")


def _read_postgresql(url: URL) -> URL:
    if "@" in (url.host or ""):  # the host would be the end of the password
        raise SetupError("the password in the database URL holds an @; write it as %40")
    # libpq would wait for minutes where nothing answers.
    return url.set(query={"connect_timeout": "10", **url.query})


def _read_sqlite(url: URL) -> URL:
    if not url.database or url.database == ":memory:" or url.query:
        raise SetupError(
            "Backdrop needs a database in a file, without options: write sqlite:///PATH "
            "(with four slashes for a whole path)"
        )
    return url


def describe(url: URL) -> str:
    """The database in words, for an error's sentence."""
    if url.get_backend_name() == "sqlite":
        return f"the database file {url.database}"
    host = url.host or url.query.get("host") or "this machine's socket"
    port = url.port or url.query.get("port") or 5432
    return f"PostgreSQL at {host}, port {port} (database {url.database}, user {url.username})"


def advise(url: URL) -> str:
    """What to check when it can't be reached."""
    if url.get_backend_name() == "sqlite":
        return "check that the path is right and that this user may write the file and its folder"
    return (
        "check that the server runs and that host, port, user, password and database name "
        "in the database URL are right"
    )


def without_password(reason: str, url: URL) -> str:
    """A driver's own words on one line, the URL's passwords taken out."""
    texts = [str(secret) for secret in (url.password, url.query.get("password")) if secret]
    for text in texts:
        for form in (text, quote(text, safe=""), quote_plus(text)):
            reason = reason.replace(form, "***")
    return " ".join(reason.split()).rstrip(".")
