"""Text for people: whatever is in it, nobody's terminal obeys it."""

from __future__ import annotations

import io
import json

import pytest

from pooltable.text import counted, escaped, for_people, harmless, one_line, safe_repr, safe_str, short, terminal_lines

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
WILD = "".join(map(chr, range(0x20))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))) + BIDIRECTIONAL


def test_nothing_that_a_terminal_obeys_stays_but_line_breaks_and_tabs() -> None:
    assert set(harmless(f"{WILD}Grüße 🎉 \u05e9")) == set("\t\nGrüße 🎉 \u05e9")


def test_colours_stay_where_they_are_asked_for_and_end_with_the_text() -> None:
    assert harmless("\x1b[1;31mred\x1b[2J") == "red"
    assert harmless("\x1b[1;31mred\x1b[2J", colours=True) == "\x1b[1;31mred\x1b[0m"
    assert harmless("a\x07", colours=True) == "a"


def test_a_surrogate_is_written_out_so_that_any_stream_takes_it() -> None:
    assert harmless("a\udc80b") == "a\\udc80b"


def test_a_stream_that_is_no_terminal_gets_no_colours() -> None:
    assert for_people("\x1b[31mred", io.StringIO()) == "red"
    assert for_people("\x1b[31mred", None) == "red"


def test_one_line_has_no_line_breaks_and_keeps_what_is_printable_as_it_is() -> None:
    assert one_line("a  b") == "a  b"
    assert one_line(" a\x1b[2J\r\nb\x00 ") == "a b"


def test_what_is_cut_leaves_an_ellipsis() -> None:
    assert short("a\x1b[2J" + "b" * 100, 10) == "abbbbbbbb…"
    assert short({"a": "\x1b"}) == r"{'a': '\x1b'}"


def test_json_means_the_same_and_moves_no_cursor() -> None:
    text = escaped(json.dumps(WILD + "ü\u05e9", ensure_ascii=False))
    assert json.loads(text) == WILD + "ü\u05e9"
    assert text.isprintable()
    assert "ü" in text


def test_a_value_whose_own_methods_raise_has_a_text() -> None:
    class Wild:
        def __str__(self) -> str:
            raise KeyboardInterrupt

        def __repr__(self) -> str:
            raise ValueError

    assert safe_str(Wild()) == "(its __str__ raised KeyboardInterrupt)"
    assert safe_repr(Wild()) == "<Wild whose repr raises>"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("10%\r20%\r100%\n", ["100%"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("\x1b[31mred\x1b[0m", ["\x1b[31mred\x1b[0m\x1b[0m"]),
        ("\x1b[31mred", ["\x1b[31mred\x1b[0m"]),
        ("\x1b[2Jclear\x1b[1;1Hhome\x1b]0;title\x07\x1b(B\x9b2J", ["clearhome2J"]),
        ("bell\x07 tab\t\x08 nul\\x00", ["bell tab\t nul\\x00"]),
        ("\x1b]52;c;unfinished", [""]),
        ("\x1b]52;c;unfinished\nthe next", ["", "the next"]),
        ("\x1bPq#0\x1b\\after", ["after"]),
        ("txt.\u202egpj.exe", ["txt.gpj.exe"]),
    ],
)
def test_lines_for_a_terminal_keep_colours_and_move_nothing(text: str, lines: list[str]) -> None:
    assert [line for line in terminal_lines(text) if line] == [line for line in lines if line]


def test_a_count_has_the_words_that_go_with_it() -> None:
    assert [counted(number, "row") for number in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
    assert [counted(number, "row waits", "rows wait") for number in (1, 1000)] == ["1 row waits", "1000 rows wait"]
