"""Settings: defaults, then the TOML file, then LADING_* variables, then options; the later wins."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st

from ociserver.settings import SettingInvalid, Settings, load

quick = quickly(derandomize=True, deadline=None, max_examples=150)
KEYS = [one.name for one in fields(Settings)]


def file_of(folder: Path, text: str) -> Path:
    file = folder / "lading.toml"
    file.write_text(text, "utf-8")
    return file


def refusal(
    options: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
    file: Path | None = None,
) -> str:
    with pytest.raises(SettingInvalid) as caught:
        load(options or {}, environment or {}, file)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    assert load({}, {"PATH": "/bin", "PORT": "1"}, None) == Settings()


def test_the_defaults_are_what_the_readme_says() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 5000, 1)
    assert settings.manifest_limit == 4 * 1024 * 1024
    assert settings.sparse == "accept"


def test_the_later_source_wins(tmp_path: Path) -> None:
    file = file_of(tmp_path, 'port = 1001\nworkers = 2\nhost = "file"\n')
    variables = {"LADING_PORT": "1002", "LADING_WORKERS": "3"}
    assert load({}, {}, file).port == 1001
    assert load({}, variables, file).port == 1002
    settings = load({"port": "1003"}, variables, file)
    assert (settings.port, settings.workers, settings.host) == (1003, 3, "file")


def test_a_bad_value_is_refused_even_where_a_later_source_overrides_it(tmp_path: Path) -> None:
    assert "port" in refusal({"port": "5000"}, file=file_of(tmp_path, 'port = "x"'))


@pytest.mark.parametrize("text", ["page-limit = 7", "page_limit = 7", 'page-limit = "7"'])
def test_a_key_of_the_file_is_spelt_with_dashes_or_underscores(tmp_path: Path, text: str) -> None:
    assert load({}, {}, file_of(tmp_path, text)).page_limit == 7


def test_the_file_may_use_the_types_of_toml(tmp_path: Path) -> None:
    file = file_of(tmp_path, "access-log = false\nidle = 1.5\ncache = 1024\ndrain = '2m'\n")
    settings = load({}, {}, file)
    assert settings.access_log == "off"
    assert (settings.idle, settings.cache, settings.drain) == (1.5, 1024, 120)


def test_the_variable_that_names_the_file_is_no_setting() -> None:
    assert load({}, {"LADING_CONFIG": "somewhere.toml"}, None) == Settings()


@pytest.mark.parametrize("name", ["SERVER", "USER", "PASSWORD", "TOKEN", "CA_FILE"])
def test_what_the_clients_of_a_registry_take_is_no_setting_of_one(name: str) -> None:
    assert load({}, {f"LADING_{name}": "x"}, None) == Settings()


@pytest.mark.parametrize("key", ["prot", "CATALOG", "config"])
def test_an_unknown_key_is_refused_with_its_name_and_the_known_ones(
    tmp_path: Path, key: str
) -> None:
    file = file_of(tmp_path, f"{key} = 1")
    for said in (refusal({key: "1"}), refusal(file=file)):
        assert key in said
        assert all(known in said for known in KEYS)


def test_an_unknown_variable_is_refused_with_its_name_as_it_was_set() -> None:
    said = refusal(environment={"LADING_PROT": "1"})
    assert said.startswith("LADING_PROT is no setting")
    assert "manifest_limit" in said


@pytest.mark.parametrize(
    ("key", "value", "form"),
    [
        ("port", "65536", "a whole number from 0 to 65535"),
        ("port", "-1", "a whole number from 0 to 65535"),
        ("port", "http", "a whole number from 0 to 65535"),
        ("port", "", "a whole number from 0 to 65535"),
        ("workers", "0", "a whole number from 1 to 256"),
        ("workers", "1.5", "a whole number from 1 to 256"),
        ("page_limit", "0", "a whole number from 1 to 100000"),
        ("host", " ", "an address"),
        ("catalog", "postgres://x", "sqlite:///PATH"),
        ("catalog", "sqlite:///", "sqlite:///PATH"),
        ("catalog", "data/catalog.db", "sqlite:///PATH"),
        ("blobs", "s3://Bucket", "file:///PATH"),
        ("blobs", "file://data", "file:///PATH"),
        ("redirect_endpoint", "s3:9000", "http(s)://HOST:PORT"),
        ("redirect_except", "10.0.0.1/8", "networks such as 10.0.0.0/8"),
        ("trusted_proxies", "proxy", "networks such as 10.0.0.0/8"),
        ("blobs", "file:///", "file:///PATH"),
        ("sparse", "maybe", "accept or refuse"),
        ("access_log", "yes", "on or off"),
        ("log_level", "INFO", "debug or info or warning or error"),
        ("cache", "1 KB", "a size"),
        ("cache", "1.5MiB", "a size"),
        ("cache", "-1", "a size"),
        ("cache", "", "a size"),
        ("cache", "1K\u0131b", "a size"),
        ("cache", "\u0661", "a size"),
        ("idle", "0", "a time"),
        ("idle", "-5s", "a time"),
        ("idle", "5 weeks", "a time"),
        ("idle", "1e3", "a time"),
        ("idle", "nan", "a time"),
        ("idle", "inf", "a time"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_itself_and_the_accepted_form(
    key: str, value: str, form: str
) -> None:
    option, variable = refusal({key: value}), refusal(environment={f"LADING_{key.upper()}": value})
    assert option.startswith(f"--{key.replace('_', '-')}={value!r} is not {form}")
    assert variable.startswith(f"LADING_{key.upper()}={value!r} is not {form}")


def test_a_bad_value_of_the_file_is_refused_with_the_file_the_key_and_the_form(
    tmp_path: Path,
) -> None:
    file = file_of(tmp_path, "page-limit = 'many'")
    assert refusal(file=file) == f"{file}: page-limit='many' is not a whole number from 1 to 100000"


@pytest.mark.parametrize("value", ["[1]", "{a = 1}", "1979-05-27"])
def test_a_value_of_the_file_that_is_not_plain_is_refused_with_its_key(
    tmp_path: Path, value: str
) -> None:
    assert "cache" in refusal(file=file_of(tmp_path, f"cache = {value}"))


def test_a_file_that_is_not_there_or_not_toml_is_refused_with_its_name(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    assert str(absent) in refusal(file=absent)
    assert str(tmp_path) in refusal(file=tmp_path)
    broken = file_of(tmp_path, "port = = 1")
    assert str(broken) in refusal(file=broken)
    broken.write_bytes(b"host = '\xff'")
    assert str(broken) in refusal(file=broken)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("17", 17),
        ("17B", 17),
        ("1KiB", 2**10),
        ("3 MiB", 3 * 2**20),
        ("2gib", 2**31),
        ("1TIB", 2**40),
        (" 5 KiB ", 5 * 2**10),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(text: str, value: int) -> None:
    assert load({"cache": text}, {}, None).cache == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("0.5", 0.5),
        ("5s", 5),
        ("250ms", 0.25),
        ("2 m", 120),
        ("1.5h", 5400),
        ("1d", 86400),
    ],
)
def test_a_time_is_seconds_or_has_a_unit(text: str, value: float) -> None:
    assert load({"idle": text}, {}, None).idle == pytest.approx(value)


@quick
@given(st.sampled_from(KEYS), st.text(max_size=20))
def test_any_text_for_any_key_is_taken_or_refused_by_name(key: str, text: str) -> None:
    try:
        load({key: text}, {}, None)
    except SettingInvalid as error:
        assert str(error).startswith(f"--{key.replace('_', '-')}=")  # noqa: PT017 - one good end


@quick
@given(st.integers(0, 10**12), st.sampled_from([("", 1), ("KiB", 2**10), ("MiB", 2**20)]))
def test_every_size_is_its_number_times_its_unit(number: int, unit: tuple[str, int]) -> None:
    assert load({"cache": f"{number}{unit[0]}"}, {}, None).cache == number * unit[1]


@pytest.mark.parametrize("key", KEYS)
def test_every_default_is_a_value_its_own_form_accepts(key: str) -> None:
    [one] = [each for each in fields(Settings) if each.name == key]
    shown = one.metadata["form"].shown(one.default)
    assert getattr(load({key: shown}, {}, None), key) == one.default


@pytest.mark.parametrize(
    "url",
    [
        "postgres://lading:SECRET@db/lading",
        "postgresql+asyncpg://lading:SECRET@db/lading",
        "postgresql://lading:SEC/RET@db:5432/lading",
        "postgresql://lading:SEC#RET@db:5432/lading",
        "postgresql://lading:SECRET@db:99999/lading",
        "postgresql://lading:SECRET@db:port/lading",
        "postgresql://lading:SECRET@[::1/lading",
    ],
)
def test_a_catalog_that_is_refused_keeps_its_secret(url: str) -> None:
    with pytest.raises(SettingInvalid) as raised:
        load({"catalog": url}, {}, None)
    said = str(raised.value)
    assert "postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in said
    assert "SEC" not in said
    assert "RET" not in said


def test_keys_in_a_bucket_s_url_that_is_refused_are_not_shown() -> None:
    with pytest.raises(SettingInvalid) as raised:
        load({}, {"LADING_BLOBS": "s3://KEY:SECRET@My_Bucket/x"}, None)
    assert "SECRET" not in str(raised.value)
    assert "My_Bucket" in str(raised.value)
