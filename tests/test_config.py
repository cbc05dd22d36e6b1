"""Configuration: what is taken, and the one clear line for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from loupe.config import Config, check_name, load_yaml, parse_section, read_section
from loupe.errors import InputError


class Inner(Config):
    rate: float = Field(1e-3, gt=0)


class Section(Config):
    steps: int
    inner: Inner = Inner(rate=1)


def write(folder: Path, text: str) -> Path:
    path = folder / "a.yaml"
    path.write_text(text, encoding="utf8")
    return path


def test_a_section_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "joint:\n  steps: 7\n  inner: {rate: 1e-4}\nother: 1\n")
    section = read_section(path, "joint", Section)
    assert section == Section(steps=7, inner=Inner(rate=1e-4))
    with pytest.raises(ValidationError):
        section.steps = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other: 1", "section 'joint' is missing"),
        ("joint: {steps: 1, stesp: 2}", "stesp: unknown key; known here: steps, inner"),
        ("joint: {steps: many}", "joint: steps: "),
        ("joint: {steps: 1, inner: {rate: 0}}", r"joint: inner\.rate: "),
        ("joint: null", "joint"),
        ("- 1", "expected 'key: value'"),
        ("", "expected 'key: value'"),
        ("joint: [1", ":1: not plain YAML|:2: not plain YAML"),
        ("a: 1\na: 2", "a key stands twice"),
        ("a: {b: 1, b: 2}", "a key stands twice"),
        ("a: &x [1]\nb: *x", ":2: not plain YAML: aliases are not allowed"),
        ("a: !!python/object/apply:os.system ['echo']", ":1: not plain YAML: could not determine a constructor"),
        ("a: " + "x" * (1 << 20), "larger than 1 MiB"),
        ("a: \x00", "not plain YAML"),
        ("a: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_a_bad_file_gives_one_line_naming_it(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read_section(path, "joint", Section)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_yaml(tmp_path / "b.yaml")


def test_parse_section_says_where() -> None:
    with pytest.raises(InputError, match=r"^recipe x: joint: steps: "):
        parse_section(Section, {}, "recipe x: joint")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True))
def test_plain_names_pass(name: str) -> None:
    reserved = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
    if name.lower() in reserved:
        with pytest.raises(InputError):
            check_name(name, "capture")
    else:
        assert check_name(name, "capture") == name


@pytest.mark.parametrize(
    "name", ["", "../x", "/etc", "-rf", "a\n", "a\0b", "caf\u00e9", "x" * 65, "CON", "lpt1", "a.b", "a b", "$(x)"]
)
def test_dangerous_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="capture name") as caught:
        check_name(name, "capture")
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
