"""The settings: declared once, merged from four places, refused with a remedy."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from pooltable.config import BY_NAME, SETTINGS, Settings, database_url, gather, to_toml
from pooltable.errors import SettingError


def settings(folder: Path, toml: str = "", flags: dict[str, Any] | None = None, **environment: str) -> Settings:
    if toml:
        (folder / "pooltable.toml").write_text(toml)
    return gather(flags, environment=environment, folder=folder)


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    toml = "poll = 3\ngrace = 3\nlease = 33\n"
    found = settings(tmp_path, toml, {"poll": "5", "halt": None}, POOLTABLE_POLL="4", POOLTABLE_GRACE="4")
    assert [(found[name], found.origin(name)) for name in ("poll", "grace", "lease", "halt")] == [
        (5.0, "--poll"),
        (4.0, "POOLTABLE_GRACE"),
        (33.0, str(tmp_path / "pooltable.toml")),
        (20, "default"),
    ]


def test_every_setting_has_a_default_a_help_text_and_unique_names() -> None:
    flags = [flag for setting in SETTINGS for flag in setting.flags]
    assert len(set(flags)) == len(flags)
    assert len(BY_NAME) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.help.endswith((".", ")"))
        assert setting.default is None or setting.read(setting.default, "default") == setting.default


def test_pyproject_counts_where_there_is_no_file_of_our_own(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.pooltable]\nwrite = ["caption"]\n')
    assert settings(tmp_path)["write"] == ("caption",)
    assert settings(tmp_path, "poll = 1.0")["write"] == ()


@pytest.mark.parametrize(
    "text", ["", "[project]\nname='x'", "tool = 3", "[tool]\npooltable = 1", "[tool.black]\nx = 1"]
)
def test_a_pyproject_that_does_not_speak_of_us_is_no_matter(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert settings(tmp_path).file is None


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ("\nproceses = 4", ["pooltable.toml, line 2", "'proceses'", "did you mean 'processes'"]),
        ("zzzz = 4", ["line 1", "'zzzz'", "pooltable config"]),
        ("[tabel]\nx = 1", ["line 1", "'tabel'", "'table'"]),
        ("table = 'a'\nprocesses = 'four'", ["line 2", "processes must be a whole number", "'four'"]),
        ("processes = true", ["a whole number", "True"]),
        ("processes = -1", ["0 or more"]),
        ("poll = nan", ["a number"]),
        ("table = 4", ["table must be text"]),
        ("write = [1]", ["column names"]),
        ("forever = 'maybe'", ["true or false"]),
        ("pending = 1.5", ["NULL"]),
        ("memory = 'lots'", ["a size such as 4GB"]),
        ("memory = '1.2.3G'", ["a size such as 4GB"]),
        ("memory = ['1GB', '2GB', '3GB']", ["or two such as 4GB,6GB"]),
        ("memory = '1GB,'", ["or two such as 4GB,6GB"]),
        ("memory = 0", ["a size such as 4GB"]),
        ("table = \nx = 1", ["not valid TOML", "line 1"]),
    ],
)
def test_what_a_file_says_wrong_is_named_with_its_line_and_the_remedy(
    tmp_path: Path, toml: str, parts: list[str]
) -> None:
    with pytest.raises(SettingError) as failure:
        settings(tmp_path, toml)
    assert all(part in str(failure.value) for part in parts), failure.value
    assert "\n" not in str(failure.value)


def test_an_unknown_key_of_pyproject_is_named_with_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[other]\npol = 1\n\n[tool.pooltable]\npol = 1\n")
    with pytest.raises(SettingError, match=r"pyproject.toml, line 5: there is no setting 'pol'; did you mean 'poll'"):
        settings(tmp_path)


def test_a_variable_with_a_slip_in_its_name_is_refused_and_an_unlike_one_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="POOLTABLE_PROCESES is no setting; did you mean POOLTABLE_PROCESSES"):
        settings(tmp_path, POOLTABLE_PROCESES="3")
    assert settings(tmp_path, POOLTABLE_SOMETHING_ELSE="1", POOLTABLE_POLL="")["poll"] == 2.0


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("forever", "yes", True),
        ("forever", "OFF", False),
        ("write", "a, b", ("a", "b")),
        ("pending", "NULL", None),
        ("pending", "0", "0"),
        ("processes", "3", 3),
        ("lease", "12.5", 12.5),
        ("memory", "4GB", 4_000_000_000),
        ("memory", "1.5 GiB", 3 * 2**29),
        ("memory", "4096", 4096),
        ("memory", "400MB, 1.5GiB", (400_000_000, 3 * 2**29)),
        ("memory", ["400MB", 1000], (400_000_000, 1000)),
    ],
)
def test_the_environment_is_read_by_the_kind_of_the_setting(tmp_path: Path, name: str, text: str, value: Any) -> None:
    assert settings(tmp_path, **{f"POOLTABLE_{name.upper()}": text})[name] == value


def test_a_null_word_from_the_environment_wins_over_its_default(tmp_path: Path) -> None:
    found = settings(tmp_path, POOLTABLE_PENDING="NULL")
    assert (found["pending"], found.origin("pending")) == (None, "POOLTABLE_PENDING")


def test_another_file_can_be_named_and_must_be_there(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    with pytest.raises(SettingError, match="no file of settings"):
        gather(folder=tmp_path, file=other, environment={})
    other.write_text("max-rows = 7")
    assert gather(folder=tmp_path, environment={"POOLTABLE_CONFIG": str(other)})["max_rows"] == 7


def test_a_database_is_a_url_a_file_or_a_variable_that_holds_one() -> None:
    assert database_url("postgresql://h/d") == "postgresql://h/d"
    assert database_url("some dir/videos.db") == "sqlite:///some dir/videos.db"
    assert database_url("100%25 sure?.db") == "sqlite:///100%2525 sure%3F.db"
    assert database_url("env:MY_URL", environment={"MY_URL": "mysql://h/d"}) == "mysql://h/d"
    with pytest.raises(SettingError, match="no variable MY_URL"):
        database_url("env:MY_URL", environment={})


def test_no_database_or_table_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--db"):
        _ = settings(tmp_path).database
    with pytest.raises(SettingError, match="--table"):
        _ = settings(tmp_path).table_name


def test_a_relative_file_in_a_file_of_settings_is_beside_that_file(tmp_path: Path) -> None:
    folder = tmp_path / "100% sure?"
    folder.mkdir()
    file = folder / "pooltable.toml"
    beside = f"sqlite:///{tmp_path}/100%25 sure%3F"
    for written, url in [
        ("v.db", f"{beside}/v.db"),
        ("data/v.db", f"{beside}/data/v.db"),
        ("sqlite:///v.db?timeout=5", f"{beside}/v.db?timeout=5"),
        ("sqlite:///file:v.db?mode=ro&uri=true", f"{beside.replace('///', '///file:')}/v.db?mode=ro&uri=true"),
        ("/srv/v.db", "sqlite:////srv/v.db"),
        ("sqlite:////srv/v.db", "sqlite:////srv/v.db"),
        ("postgresql://h/d", "postgresql://h/d"),
    ]:
        file.write_text(f"db = '{written}'")
        found = gather(file=file, environment={})
        assert (found.database, found["db"]) == (url, written)
    assert gather({"db": "v.db"}, file=file, environment={}).database == "sqlite:///v.db"
    assert gather(file=file, environment={"POOLTABLE_DB": "v.db"}).database == "sqlite:///v.db"


def test_a_mistake_in_a_url_is_told_with_where_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"pooltable\.toml: a SQLite file is written .* sqlite:///v.db"):
        _ = settings(tmp_path, "db = 'sqlite://v.db'").database
    with pytest.raises(SettingError, match=r"^MY_URL: the port"):
        database_url("env:MY_URL", environment={"MY_URL": "postgresql://host:s3cret/d"})
    with pytest.raises(SettingError, match=r"db must be text, not \['postgresql://me:\*\*\*@host/d'\]"):
        settings(tmp_path, "db = ['postgresql://me:s3cret@host/d']")


def test_an_answer_counts_as_given_on_the_command_line_also_where_it_is_null(tmp_path: Path) -> None:
    found = settings(tmp_path, "table = 'video'\nwrite = ['a']").answered({"pending": "NULL", "table": "clip"})
    assert (found["pending"], found.origin("pending")) == (None, "--pending")
    assert (found["table"], found.origin("table")) == ("clip", "--table")
    assert found["write"] == ("a",)


def test_what_is_written_reads_back() -> None:
    values = {
        "db": 'sqlite:///a "b" \\ \n é',
        "write": ["a", "b"],
        "forever": True,
        "poll": 0.5,
        "pending": 0,
        "job": None,
    }
    assert tomllib.loads(to_toml(values)) == {name: value for name, value in values.items() if value is not None}
