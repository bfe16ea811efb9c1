"""The mechanism that runs the pages notices when a page promises what is not so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import blocks


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blocks, "REPOSITORY", tmp_path)

    def run(text: str) -> None:
        page = tmp_path / "page.md"
        page.write_text(text.replace("'''", "```"))
        blocks.run_page(page, tmp_path)

    return run


def test_files_scripts_and_commands_work_together(run):
    run(
        "'''python title=\"app.py\"\nword = 'boat'\n'''\n"
        "Then:\n\n'''python\nimport app\nprint('a', app.word)\n'''\n\n'''text\na boat\n'''\n\n"
        "'''sh\npython -c 'import app; print(app.word, 1, 2)'\n'''\n\n'''text\nboat ... 2\n'''\n"
    )


def test_another_output_than_the_promised_one_is_noticed(run):
    with pytest.raises(AssertionError, match="promises"):
        run("'''sh\necho a red boat\n'''\n\n'''text\ntwo dogs\n'''\n")


def test_a_command_that_fails_in_the_middle_is_noticed(run):
    with pytest.raises(AssertionError, match="ended with 1, not 0"):
        run("'''sh\nfalse\necho but this works\n'''\n")


def test_a_script_that_raises_is_noticed(run):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run("'''python\n1 / 0\n'''\n")


def test_an_expected_exit_code_is_expected(run):
    run("<!-- exit code: 3 -->\n'''sh\nexit 3\n'''\n")
    with pytest.raises(AssertionError, match="ended with 0, not 3"):
        run("<!-- exit code: 3 -->\n'''sh\ntrue\n'''\n")


def test_what_is_not_run_is_not_run(run):
    run("<!-- not run: it would never end -->\n'''sh\nexit 3\n'''\n")


def test_a_service_is_stopped_when_it_has_said_its_words(run):
    run(
        "<!-- stopped at: ready -->\n'''python\nimport signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprint('ready', flush=True)\ntime.sleep(60)\n'''\n"
    )
