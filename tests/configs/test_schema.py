"""From plain dictionaries to dataclasses: types, ranges, unknown keys, hints."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from qdreamer.configs.schema import MAX_INT, Bool, ConfigError, Float, Int, build, closest, settings, show


@settings
class Inner:
    width: Int = Field(ge=1, le=8)
    rate: Float = Field(gt=0.0, lt=1.0)
    kind: Literal["round", "square"]


@settings
class Outer:
    flag: Bool
    word: str
    limit: Int | None = Field(ge=1)
    pair: tuple[Float, Float]
    indices: tuple[Annotated[Int, Field(ge=0)], ...]
    weights: dict[str, Annotated[Float, Field(ge=0.0)]]
    anything: dict[str, Any]
    inner: Inner

    def __post_init__(self) -> None:
        if self.word == "forbidden":
            raise ValueError("word=forbidden does not go with the others")


def good() -> dict[str, Any]:
    return {
        "flag": True,
        "word": "w",
        "limit": None,
        "pair": [1, 2.5],
        "indices": [0, 3],
        "weights": {"a": 1},
        "anything": {"b": [1, {"c": None}]},
        "inner": {"width": 3, "rate": 0.5, "kind": "round"},
    }


def test_builds_nested_values_with_their_types() -> None:
    built = build(Outer, good())
    assert built == Outer(
        flag=True,
        word="w",
        limit=None,
        pair=(1.0, 2.5),
        indices=(0, 3),
        weights={"a": 1.0},
        anything={"b": [1, {"c": None}]},
        inner=Inner(width=3, rate=0.5, kind="round"),
    )
    assert isinstance(built.pair[0], float) and isinstance(built.weights["a"], float)
    assert isinstance(build(Inner, {"width": 3.0, "rate": 0.5, "kind": "round"}).width, int)


def test_builds_again_from_its_own_dictionary() -> None:
    built = build(Outer, good())
    assert build(Outer, asdict(built)) == built


# key (dotted), value, the words of the error
WRONG: list[tuple[str, Any, str]] = [
    ("flag", 1, "flag=1 must be true or false"),
    ("flag", "yes", "flag=yes must be true or false"),
    ("flag", None, "flag=null must be true or false"),
    ("word", 3, "word=3 must be a word"),
    ("word", None, "word=null must be a word"),
    ("word", "forbidden", "word=forbidden does not go with the others"),
    ("limit", 0, "limit=0 must be at least 1, or null"),
    ("limit", "x", "limit=x must be a whole number, or null"),
    ("pair", [1], "pair=[1] must have 2 entries"),
    ("pair", [1, 2, 3], "pair=[1,2,3] must have 2 entries"),
    ("pair", "12", "pair=12 must be a list, as pair=[…]"),
    ("pair", {"a": 1, "b": 2}, "pair={a:1,b:2} must be a list"),
    ("pair", [1, "x"], "pair[1]=x must be a number"),
    ("indices", 3, "indices=3 must be a list"),
    ("indices", [0, -1], "indices[1]=-1 must be at least 0"),
    ("indices", [0.5], "indices[0]=0.5 must be a whole number"),
    ("weights", [1], "weights=[1] must be a mapping, as weights.<key>=…"),
    ("weights", {"a": None}, "weights.a=null must be a number"),
    ("weights", {"a": -0.5}, "weights.a=-0.5 must be at least 0"),
    ("inner", None, "inner=null replaces a whole section"),
    ("inner", 3, "inner=3 replaces a whole section: set its keys instead, as inner.<key>=…"),
    ("inner.width", 0, "inner.width=0 must be at least 1"),
    ("inner.width", 9, "inner.width=9 must be at most 8"),
    ("inner.width", True, "inner.width=true must be a whole number"),
    ("inner.width", 2.5, "inner.width=2.5 must be a whole number"),
    ("inner.width", float("inf"), "inner.width=inf must be a whole number"),
    ("inner.width", float("nan"), "inner.width=nan must be a whole number"),
    ("inner.width", MAX_INT + 1, f"inner.width={MAX_INT + 1} must lie within ±{MAX_INT}"),
    ("inner.rate", 0, "inner.rate=0 must be greater than 0"),
    ("inner.rate", 1.0, "inner.rate=1 must be less than 1"),
    ("inner.rate", "x", "inner.rate=x must be a number"),
    ("inner.rate", False, "inner.rate=false must be a number"),
    ("inner.rate", float("nan"), "inner.rate=nan must be finite"),
    ("inner.rate", 10**400, "must be finite"),
    ("inner.kind", "sqare", "inner.kind=sqare is not one of round, square (did you mean square?)"),
    ("inner.kind", "zzz", "inner.kind=zzz is not one of round, square"),
    ("inner.widht", 3, "unknown key inner.widht (did you mean width?); keys in inner: width, rate, kind"),
    ("zzzz", 3, "unknown key zzzz; keys: flag, word"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG, ids=[f"{k}={str(v)[:12]}" for k, v, _ in WRONG])
def test_names_what_is_wrong(key: str, value: Any, words: str) -> None:
    values = good()
    *sections, last = key.split(".")
    target = values
    for section in sections:
        target = target[section]
    target[last] = value
    with pytest.raises(ConfigError) as caught:
        build(Outer, values)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert ("did you mean" in message) == ("did you mean" in words)


@pytest.mark.parametrize("key", ["flag", "inner", "weights"])
def test_missing_keys(key: str) -> None:
    values = good()
    del values[key]
    with pytest.raises(ConfigError, match=f"^{key} is missing$"):
        build(Outer, values)


def test_keys_that_are_no_words() -> None:
    with pytest.raises(ConfigError, match="unknown key 1"):
        build(Outer, {**good(), 1: 2})


@given(st.integers(-20, 20))
def test_range_is_exactly_the_declared_one(width: int) -> None:
    values = {"width": width, "rate": 0.5, "kind": "round"}
    if 1 <= width <= 8:
        assert build(Inner, values).width == width
    else:
        with pytest.raises(ConfigError, match=f"width={width} "):
            build(Inner, values)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
    st.sampled_from(sorted(good())),
)
def test_any_value_is_taken_or_refused_in_words(value: Any, key: str) -> None:
    try:
        built = build(Outer, {**good(), key: value})
    except ConfigError as error:
        assert key in str(error)
    else:
        assert build(Outer, asdict(built)) == built


def test_closest() -> None:
    assert closest("cartpol", ["CartPole", "Acrobot"]) == "CartPole"
    assert closest("rl", ["lr", "eps"]) == "lr"
    assert closest("xyz", ["lr", "eps"]) is None
    assert closest("unifrom", ["uniform", "other"], cutoff=0.95) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (1.0, "1"),
        (3e-4, "0.0003"),
        (0.1, "0.1"),
        ("x", "x"),
        ((1, [None, "a"]), "[1,[null,a]]"),
        ({"a": {"b": False}}, "{a:{b:false}}"),
    ],
)
def test_shows_values_as_they_are_typed(value: Any, text: str) -> None:
    assert show(value) == text
