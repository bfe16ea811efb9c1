"""Database URLs: what is wrong with one, and what may be shown of it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from pooltable.table.dialects import shown
from pooltable.urls import hide_password, mistake_in, password_of, without_passwords


@pytest.mark.parametrize(
    ("url", "hidden", "password"),
    [
        ("postgresql://me:s3cret@host:5432/db", "postgresql://me:***@host:5432/db", "s3cret"),
        ("postgresql+psycopg://me:p@ss:w/rd@host/db", "postgresql+psycopg://me:***@host/db", "p@ss:w/rd"),
        ("postgresql://me:a b?c=d#e@host/db", "postgresql://me:***@host/db", "a b?c=d#e"),
        ("postgresql://me:e@host/db", "postgresql://me:***@host/db", "e"),
        ("postgresql://me@there:pw@host/db", "postgresql://me@there:***@host/db", "pw"),
        ("postgresql://me:s3cret/db", "postgresql://me:***/db", "s3cret"),
        ("postgresql://me:s3cret", "postgresql://me:***", "s3cret"),
        ("mysql://:pw@host", "mysql://:***@host", "pw"),
        ("postgresql://host/db?user=a&password=pw&x=1", "postgresql://host/db?user=a&password=***&x=1", "pw"),
        ("mysql://host/db?passwd=pw", "mysql://host/db?passwd=***", "pw"),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db", None),
        ("postgresql://me@host/db", "postgresql://me@host/db", None),
        ("postgresql://host:5432/db", "postgresql://host:5432/db", None),
        ("postgresql://host:5432?sslmode=require", "postgresql://host:5432?sslmode=require", None),
        ("postgresql://me@[::1]:5432/db", "postgresql://me@[::1]:5432/db", None),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db", None),
        ("postgresql://host:5432", "postgresql://host:5432", None),
    ],
)
def test_a_password_is_not_shown_and_everything_else_is(url: str, hidden: str, password: str | None) -> None:
    assert hide_password(url) == hidden
    assert password_of(url) == password


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mariadb+pymysql"])
@pytest.mark.parametrize("password", ["p@ss", "@", "a/b", "/", "a:b", ":", "s@a/b:c", "5432/x", "a@b?c", "p?x=y@z"])
def test_a_password_that_a_url_cannot_hold_is_refused_with_how_to_write_it(scheme: str, password: str) -> None:
    mistake = mistake_in(f"{scheme}://me:{password}@host/db")
    assert mistake is not None
    assert all(part in mistake for part in ("%40", "%2F", "%3A"))
    assert password not in mistake.replace("an @, a / or a :", "").replace("@ as %40, / as %2F and : as %3A", "")


@pytest.mark.parametrize("password", ["e", "app", "p%40ss", "a%2Fb", "a%3Ab", "a#b", "a b", "a?b", "pa%zz", "é"])
@pytest.mark.parametrize("host", ["host", "host:5432", "[::1]:5432", ""])
def test_any_other_password_is_taken_and_hidden(password: str, host: str) -> None:
    url = f"postgresql://me:{password}@{host}/db?application_name=x"
    assert mistake_in(url) is None
    assert shown(sa.make_url(url)) == f"postgresql://me:***@{host}/db?application_name=x"


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("sqlite://v.db", "sqlite:///v.db"),
        ("sqlite:/v.db", "sqlite:///v.db"),
        ("sqlite:v.db", "sqlite:///v.db"),
        ("sqlite+pysqlite://data/v.db", "sqlite:///data/v.db"),
        ("postgresql://host:abc/db", "the port"),
        ("mysql://me@host:abc/db", "the port"),
        ("mysql://me:pw@host:abc/db", "the port"),
        ("postgresql://host:99999/db", "the port"),
        ("postgresql://host:0/db", "the port"),
        ("postgresql://host:-1/db", "the port"),
        ("postgresql://host:٣/db", "the port"),
        ("postgresql://[::1/db", "the port"),
        ("postgresql://[::1]:x/db", "the port"),
        ("postgresql://h1:1,h2:2/db", "the port"),
        ("postgresql://me:s3cret/db", "the port"),
        ("postgresql:/host/db", "://"),
        ("postgres:host/db", "://"),
        ("mysql//host/db", "://"),
        ("host=localhost password=s3cret dbname=x", "neither"),
        ("me:s3cret@host/db", "neither"),
        ("postgresql://me:s3cret@host/db\n", "control character"),
        ("sqlite:///v\0.db", "control character"),
    ],
)
def test_a_malformed_url_is_told_with_the_right_spelling(url: str, part: str) -> None:
    mistake = mistake_in(url)
    assert mistake is not None
    assert part in mistake
    assert "s3cret" not in mistake
    assert "\n" not in mistake


@pytest.mark.parametrize(
    "url",
    [
        "v.db",
        "a:b.db",
        "data/a=b@c.db",
        "sqlite:///v.db",
        "sqlite:////srv/a:b@c.db",
        "sqlite://",
        "postgresql://",
        "postgresql:///db?host=/run/x",
        "postgresql://host:/db",
        "mysql://me@host/a%40b?charset=utf8mb4",
        "oracle://host/x",
    ],
)
def test_what_is_well_formed_passes(url: str) -> None:
    assert mistake_in(url) is None


def test_a_drivers_message_is_freed_of_passwords_by_their_place_and_never_of_letters() -> None:
    said = "connection to \"postgresql://me:e@here/db\" failed: password='e e' user=me passwd=e and more"
    assert without_passwords(said) == (
        'connection to "postgresql://me:***@here/db" failed: password=*** user=me passwd=*** and more'
    )


def test_the_example_in_a_remedy_keeps_its_password_that_is_none() -> None:
    mistake = str(mistake_in("postgresql://host:abc/db"))
    assert "postgresql://USER:PASSWORD@HOST:5432/NAME" in mistake
    assert without_passwords(mistake) == mistake
    assert without_passwords(f"postgresql://me:e@here: {mistake}") == f"postgresql://me:***@here: {mistake}"
    assert without_passwords("postgresql://me:PASSWORD@HOST:5432/NAME") == "postgresql://me:***@HOST:5432/NAME"
