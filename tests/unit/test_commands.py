"""Templates of commands: how they are read, filled, and refused."""

from __future__ import annotations

import os
import subprocess
from datetime import date
from typing import Any

import pytest

from pooltable.arguments import Given, template
from pooltable.commands import Template, columns_in, command, of_words, parse, parse_shell
from pooltable.errors import Fail, TaskError


def fill(found: Template, allow_dashes: bool = False, **values: Any) -> list[str]:
    return [os.fsdecode(argument) for argument in found.fill(values.__getitem__, allow_dashes)]


def test_a_command_is_split_once_and_then_filled() -> None:
    found = parse("ffmpeg -i {content} 'two words' {id}.mp3 --x={id}{{{content}}}")
    assert found.slots == ("content", "id")
    assert fill(parse("x {a} \\\n  y\nz"), a=1) == ["x", "1", "y", "z"]
    assert fill(found, content="a b'c", id=7) == ["ffmpeg", "-i", "a b'c", "two words", "7.mp3", "--x=7{a b'c}"]


@pytest.mark.parametrize(
    ("value", "argument"),
    [(1.5, "1.5"), (date(2026, 1, 2), "2026-01-02"), ({"a": ["é"]}, '{"a": ["é"]}'), (b"\xff", "\udcff"), ("", "")],
)
def test_values_become_text(value: Any, argument: str) -> None:
    assert fill(parse("echo {x}"), x=value) == ["echo", argument]


@pytest.mark.parametrize("value", ["a\0b", b"\0", None, "\ud800"])
def test_a_value_that_no_argument_can_hold_fails(value: Any) -> None:
    with pytest.raises(Fail, match=r"\{x\}"):
        fill(parse("echo .{x}"), x=value)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("rm {x}", True),
        ("rm {x}.mp3", True),
        ("rm {e}{x}", True),
        ("rm \\\n{x}", True),
        ("rm -- {x}", False),
        ("rm ./{x}", False),
        ("rm --file={x}", False),
    ],
)
@pytest.mark.parametrize("read", [parse, parse_shell])
def test_a_value_becomes_an_option_only_where_that_is_allowed(read: Any, text: str, refused: bool) -> None:
    found = read(text)
    assert fill(found, allow_dashes=True, x="-rf", e="")
    if refused:
        with pytest.raises(Fail, match="-rf"):
            fill(found, x="-rf", e="")
    else:
        fill(found, x="-rf", e="")


def test_two_dashes_protect_only_the_command_that_they_stand_in() -> None:
    for text in ("rm -- {x}; rm {x}", "grep ' -- ' {x}", "grep ' -- ;' {x}"):
        with pytest.raises(Fail):
            fill(parse_shell(text), x="-rf")


HOSTILE = ["a b", "'", '"', "$(touch pwned)", "`touch pwned`", "\\", "\n", "; touch pwned", "*", "~", "!!", "#", "&&"]


@pytest.mark.parametrize(
    "text",
    [
        "printf '<%s>' {x}",
        "true; printf '<%s>' {x} | cat",
        "# don't\nprintf '<%s>' {x}",
        "(printf '<%s>' {x})",
        "{{ printf '<%s>' {x}; }}",
        "y={x}; printf '<%s>' \"$y\"",
        "[ {x} = y[ ] || printf '<%s>' ${{NO_SUCH_VARIABLE:-{x}}}",
        "echo '[[ a[ <<' >&2; printf '<%s>' {x}",
    ],
)
def test_a_shell_gets_every_value_as_one_word(text: str, tmp_path: Any) -> None:
    for value in HOSTILE:
        arguments = parse_shell(text).fill({"x": value}.__getitem__)
        done = subprocess.run(arguments, capture_output=True, cwd=tmp_path, timeout=10, check=True)
        assert done.stdout.decode() == f"<{value}>"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo '{x}'", "without quotes"),
        ('echo "a {x}"', "without quotes"),
        ('echo "$(echo {x})"', "without quotes"),
        ("echo `echo {x}`", "without quotes"),
        ("echo \\{x}", "without quotes"),
        ("true # {x}", "without quotes"),
        ("echo ${x}", r"\$\{\{x\}\}"),
        ('echo "$(echo "b {x}")"', "without quotes"),
        ("echo $(( {x} + 1 ))", "arithmetic"),
        ("[[ {x} -gt 3 ]] && true", "arithmetic"),
        ("echo ${{HOME:{x}}}", "arithmetic"),
        ("a[{x}]=1", "arithmetic"),
        ("cat <<END\n{x}\nEND", "printf"),
        (" {x}", "program"),
        ("", "empty"),
    ],
)
def test_a_shell_line_where_a_value_would_be_more_than_a_word_is_refused(text: str, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        parse_shell(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo {x", r"single '\{'"),
        ("echo x}", r"single '\}'"),
        ("echo 'x", "closing quotation"),
        ("{x} y", "program"),
        ("bin/{x} y", "program"),
        ("  ", "empty"),
        ("'' x", "empty"),
    ],
)
def test_a_command_that_cannot_be_one_is_refused(text: str, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        parse(text)


def test_a_command_must_be_there_and_know_the_columns() -> None:
    made = command("sh -c true {id}", ["id", "content"], shell=False, stores=False, allow_dashes=False)
    assert os.access(made.path, os.X_OK)
    with pytest.raises(TaskError, match="id, content"):
        command("sh {name}", ["id", "content"], shell=False, stores=False, allow_dashes=False)
    with pytest.raises(TaskError, match="nosuchprogram"):
        command("nosuchprogram", ["id"], shell=False, stores=False, allow_dashes=False)
    with pytest.raises(TaskError, match="executed"):
        command("./nosuchprogram", ["id"], shell=False, stores=False, allow_dashes=False)


# ---- arguments


def mapped(words: str, *arguments: str, shell: bool = False, append: bool = True, seq: int = 1) -> list[str]:
    found = template(words.split(), len(arguments), shell=shell, append=append)
    return [os.fsdecode(argument) for argument in found.fill(Given(seq, "", arguments).value)]


@pytest.mark.parametrize(
    ("words", "filled"),
    [
        ("x {}", ["x", "a/b.c/d.tar.gz"]),
        ("x", ["x", "a/b.c/d.tar.gz"]),
        ("x {.}", ["x", "a/b.c/d.tar"]),
        ("x {/}", ["x", "d.tar.gz"]),
        ("x {//}", ["x", "a/b.c"]),
        ("x {/.}", ["x", "d.tar"]),
        ("x {1/.}-{#}", ["x", "d.tar-5"]),
        ("x {#}", ["x", "5"]),
        ("x {print} {{}} {0}", ["x", "{print}", "{a/b.c/d.tar.gz}", "{0}"]),
    ],
)
def test_an_argument_is_filled_in_as_gnu_parallel_does(words: str, filled: list[str]) -> None:
    assert mapped(words, "a/b.c/d.tar.gz", seq=5) == filled


@pytest.mark.parametrize(
    ("path", "form", "found"), [(".a", "x {.}", ".a"), ("a", "x {//}", "."), ("a.b/c", "x {.}", "a.b/c")]
)
def test_paths_without_extension_or_folder(path: str, form: str, found: str) -> None:
    assert mapped(form, path) == ["x", found]


def test_several_lists_are_told_apart_by_number() -> None:
    assert mapped("x {2} {1}", "a", "b") == ["x", "b", "a"]
    assert mapped("x", "a", "b") == ["x", "a", "b"]
    with pytest.raises(TaskError, match=r"\{1\}, \{2\}"):
        mapped("x {}", "a", "b")
    with pytest.raises(TaskError, match="list 3"):
        mapped("x {3}", "a", "b")


def test_an_argument_that_is_added_at_the_end_is_no_option_either() -> None:
    with pytest.raises(Fail, match="-rf"):
        mapped("rm", "-rf")
    assert mapped("rm --", "-rf") == ["rm", "--", "-rf"]
    assert mapped("rm", "a", shell=True)[2:] == ['rm "${1}"', "sh", "a"]


def test_words_that_are_split_already_stay_as_they_are() -> None:
    assert fill(of_words(["a b", "$c", "{x}"], columns_in), x=1) == ["a b", "$c", "1"]
