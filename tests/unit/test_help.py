"""The help of the commands: what is needed most on two screens, the rest behind --help-all."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from pooltable.cli.app import app, invoke

GROUP: Any = typer.main.get_command(app)
SCREENS = 2 * 24 - 2  # the prompts before and after it


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert invoke([*words]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", ["", *GROUP.commands])
def test_the_help_fits_two_screens(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, *([command] if command else []), "--help")
    lines = text.splitlines()
    assert len(lines) <= SCREENS, text
    assert [line for line in lines if len(line) > 80] == []
    assert "<bool>" not in text


@pytest.mark.parametrize("command", GROUP.commands)
def test_each_command_has_help_with_examples_and_its_rest_behind_help_all(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short, whole = shown(capsys, command, "--help"), shown(capsys, command, "--help-all")
    for text in (short, whole):
        assert f"pooltable {command}" in text
        assert "Example" in text
        assert "\f" not in text
    options = [name for one in GROUP.commands[command].params if one.param_type_name == "option" for name in one.opts]
    assert [name for name in options if name not in whole] == []
    assert len(short) <= len(whole)


def test_the_help_of_all_names_each_command_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--help")
    assert [name for name in GROUP.commands if f"\n  {name} " not in text] == []
    assert text.index("Set up:") < text.index("Work:") < text.index("Look:") < text.index("Change:")


def test_a_switch_that_is_on_is_shown_by_how_to_turn_it_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--wait/--no-wait" in shown(capsys, "run", "--help-all")
    assert "--forever " in shown(capsys, "run", "--help")


def test_a_shell_completes_options_also_those_that_only_help_all_shows() -> None:
    with GROUP.make_context("pooltable", [], resilient_parsing=True) as above:
        run = GROUP.commands["run"]
        context = run.make_context("run", [], parent=above, resilient_parsing=True)
        found = {one.value for one in run.shell_complete(context, "--p")}
    assert {"--processes", "--pending", "--poll", "--preload"} <= found


def test_every_command_but_the_demonstration_tells_programs_what_came_out() -> None:
    without = [
        name for name, command in GROUP.commands.items() if not any("--json" in one.opts for one in command.params)
    ]
    assert without == ["demo"]
