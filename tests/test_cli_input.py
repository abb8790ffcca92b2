"""The input of ``crewbus run``: hostile bytes, JSON lines, ``--arg``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewbus.cli.input import InputLines, parse_arguments, read_lines
from crewbus.exceptions import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NOT_UTF8 = [
    b"\xff",
    b"\xc3(",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    '"ä"'.encode("latin-1"),
    '{"a": 1}'.encode("utf-16"),
]


def lines(data: bytes, **given_: Any) -> list[tuple[tuple[Any, ...], dict[str, Any], int]]:
    return [
        (found.args, found.kwargs, found.location.line)
        for found in InputLines("in", data, given_)
        if found.location is not None
    ]


def refusal(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        lines(data)
    return str(caught.value)


@given(
    st.binary(max_size=200)
    | st.text(alphabet='[]{}":,0123456789.eE-\n\r\t \\unulltrefas\ufeff', max_size=60).map(str.encode)
)
def test_any_bytes_give_arguments_or_an_error_that_names_the_line(data: bytes) -> None:
    written = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    try:
        found = lines(data)
    except InputError as error:
        file, number, _ = str(error).split(":", 2)
        assert file == "in"
        assert written[int(number) - 1].strip(b" \t\r\n"), "the line that is named is not blank"
        assert len(lines(b"\n".join(written[: int(number) - 1]))) <= int(number) - 1, "those before it are good"
    else:
        assert [number for *_, number in found] == [
            number for number, line in enumerate(written, start=1) if line.strip(b" \t\r\n")
        ]


@given(st.lists(JSON), st.sampled_from(["\n", "\r\n", "\n\n", " \n\t\n"]), st.booleans())
def test_json_values_are_unchanged(values: list[Any], newline: str, ascii_: bool) -> None:
    text = newline.join(json.dumps(value, ensure_ascii=ascii_) for value in values)
    found = lines(text.encode("utf-8", "surrogatepass"))
    assert [
        kwargs if isinstance(value, dict) else args[0] for (args, kwargs, _), value in zip(found, values, strict=True)
    ] == values


@given(st.sampled_from(NOT_UTF8), st.integers(0, 5), st.integers(0, 5))
def test_bytes_that_are_not_utf8_are_an_error_that_names_the_line(bad: bytes, before: int, after: int) -> None:
    message = refusal(b"\n".join([b"1"] * before + [bad] + [b"2"] * after))
    assert message.startswith(f"in:{before + 1}: not UTF-8: byte 0x")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a": 1', "not JSON: Expecting ',' delimiter at column 8"),
        (b"nope", "not JSON: Expecting value at column 1"),
        (b"1 2", "not JSON: Extra data at column 3"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs 2 times"),
        (b'[{"a": 1, "a": 1}]', "the key 'a' occurs 2 times"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 5_000, "Exceeds the limit"),
        (b"\x0b", "not JSON"),
        (b"\x00", "not JSON"),
    ],
)
def test_an_invalid_line_is_an_error_that_names_the_line_and_the_reason(line: bytes, why: str) -> None:
    assert refusal(b'"fine"\n\n' + line + b"\n1").startswith(f"in:3: {why}")


def test_an_object_overrides_defaults_and_any_other_value_is_positional() -> None:
    found = lines(b'{"a": 1}\n[1, 2]\nnull\n{}', a=0, b=0)
    assert found == [
        ((), {"a": 1, "b": 0}, 1),
        (([1, 2],), {"a": 0, "b": 0}, 2),
        ((None,), {"a": 0, "b": 0}, 3),
        ((), {"a": 0, "b": 0}, 4),
    ]


def test_only_newlines_end_lines_and_a_byte_order_mark_is_skipped() -> None:
    text = '\ufeff"a\u2028b\u0085c"\r\n2'
    assert lines(text.encode()) == [(("a\u2028b\u0085c",), {}, 1), ((2,), {}, 2)]


def test_lines_can_be_read_again() -> None:
    twice = InputLines("in", b"1\n2", {})
    assert list(twice) == list(twice)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("true", True), ("null", None), ("[1]", [1]), ('"3"', "3"), ('{"k": 1}', {"k": 1}),
        ("hello", "hello"), ("", ""), ("a=b", "a=b"), ("NaN", "NaN"), ("01", "01"), ("{", "{"),
    ],
)  # fmt: skip
def test_an_arg_is_json_or_else_a_string(text: str, value: Any) -> None:
    found = parse_arguments([f"x={text}"])
    assert found == {"x": value}
    assert type(found["x"]) is type(value)


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        (["topic"], "--arg 'topic' is not NAME=VALUE"),
        (["=1"], "--arg '=1' is not NAME=VALUE"),
        (["a b=1"], "--arg 'a b=1' is not NAME=VALUE"),
        (["a=1", "a=2"], "--arg a is given twice"),
        (['a={"k": 1, "k": 2}'], "--arg a: the key 'k' occurs 2 times"),
    ],
)
def test_an_invalid_arg_is_an_error(pairs: list[str], why: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_arguments(pairs)
    assert str(caught.value) == why


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "null\0byte"])
def test_an_unreadable_file_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    with pytest.raises(InputError) as caught:
        read_lines(path, {})
    assert str(caught.value).startswith(f"{path}: ")
