"""Database URLs as people write them: what is wrong with one, and how one may be shown.

    what was written --mistake_in--> nothing, or what to write instead --> SQLAlchemy, the driver
                     --hide_password--> what may be shown

A password is taken out where a URL or a driver's message becomes part of a text, and by its place there, never by its
letters: a password `e` would take every e with it, and what is missing would give it away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import unquote

HIDDEN = "***"
# Told apart from what people wrote, because a message with it in may be freed of passwords as a whole.
_PLACES = "://USER:PASSWORD@HOST:5432/NAME"
EXAMPLE = f"a database URL looks like postgresql{_PLACES}"

# Everything up to the last @, because a password that is not encoded may hold any character. Without an @ it is what
# stands in the place of a port and is none.
_IN_PLACE = re.compile(r"\A(?P<user>[\w+.-]*://[^:/\[]*:)(?P<password>.*(?=@)|(?!\d*([/?]|\Z))[^@/]*)", re.DOTALL)
_IN_QUERY = re.compile(r"(?<=[?&])(?P<user>\w*(?:password|passwd|passphrase)=)(?P<password>[^&\s]+)", re.IGNORECASE)
_IN_TEXT = re.compile(
    rf"(?!{_PLACES})(?P<user>://[^:/\s]*:)\S*(?=@)"
    r"|(?P<name>\b\w*(?i:password|passwd|passphrase)=)('[^']*'|[^\s&'\"]+)"
)

_SCHEME = re.compile(r"(sqlite|postgres|postgresql|mysql|mariadb)(\+\w+)?:", re.IGNORECASE)
_DSN = re.compile(r"\b(host|dbname|user|password)\s*=", re.IGNORECASE)
_HOST = re.compile(r"(\[[^\]/?]*\]|[^:/?\[\]]*)(:(?P<port>[^/?]*))?([/?].*)?", re.DOTALL)
_SQLITE = re.compile(r"(?P<before>sqlite(?:\+\w+)?:///(?:file:)?)(?P<path>[^?]+)(?P<query>.*)", re.DOTALL)


def hide_password(url: str) -> str:
    """A database URL without its password, for people to see."""
    for place in (_IN_PLACE, _IN_QUERY):
        url = place.sub(lambda found: found["user"] + HIDDEN, url)
    return url


def password_of(url: str) -> str | None:
    """The password that stands in a URL, as it is written there."""
    found = _IN_PLACE.search(url) or _IN_QUERY.search(url)
    return found["password"] if found else None


def without_passwords(text: str) -> str:
    """A text that may have a URL or the words of a connection in it, such as a driver's message, without passwords."""
    return _IN_TEXT.sub(lambda found: (found["user"] or found["name"]) + HIDDEN, text)


def mistake_in(url: str) -> str | None:
    """What keeps a URL, or the path of a SQLite file, from meaning what was meant, with the remedy; None where nothing
    does. The text shows no part of what might be a password."""
    if any(letter < " " or letter == "\x7f" for letter in url):
        return "the database URL has a line break or another control character in it; take it out"
    if "://" not in url:
        return _mistake_in_path(url)
    scheme, rest = url.split("://", 1)
    if scheme.lower().startswith("sqlite"):
        return _sqlite_is_written(rest) if rest and not rest.startswith("/") else None
    found = _IN_PLACE.search(url)
    if found and url[found.end() :].startswith("@"):
        if set(found["password"]) & set("@:/"):
            return (
                "the database URL has an @, a / or a : that is not one of its own; in a password write @ as %40, / as"
                " %2F and : as %3A"
            )
        rest = url[found.end() + 1 :]
    elif "@" in rest.partition("/")[0]:
        rest = rest.partition("@")[2]
    where = _HOST.fullmatch(rest)
    port = where["port"] if where else "?"
    if port and not (port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
        return f"the port in the database URL must be a number up to 65535; {EXAMPLE}"
    return None


def _mistake_in_path(path: str) -> str | None:
    scheme = _SCHEME.match(path)
    if scheme and scheme[1].lower() == "sqlite":
        return _sqlite_is_written(path[scheme.end() :])
    if scheme or re.match(r"(postgres(ql)?|mysql|mariadb)/", path):
        return f"the database URL lacks its ://; {EXAMPLE}"
    if _DSN.search(path) or re.match(r"[^/]*:.*@", path):
        return f"this is neither a SQLite file nor a database URL; {EXAMPLE}"
    return None


def _sqlite_is_written(path: str) -> str:
    name = path.lstrip("/") if path and not set(path) & set("@:") else "videos.db"
    return f"a SQLite file is written with three slashes: sqlite:///{name}; with four before a path from the root"


def sqlite_url(path: str) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{_quoted(path)}"


def with_path(db: str, change: Callable[[str], str]) -> str:
    """The URL or path of a SQLite file with its path changed where that is relative; anything else as it is."""
    if "://" not in db:
        return db if os.path.isabs(db) else change(db)
    found = _SQLITE.fullmatch(db)
    path = unquote(found["path"]) if found else "/"
    if found is None or path.startswith(("/", ":memory:")):
        return db
    return found["before"] + _quoted(change(path)) + found["query"]


def _quoted(path: str) -> str:
    # What SQLAlchemy would read as something else.
    return path.replace("%", "%25").replace("?", "%3F")
