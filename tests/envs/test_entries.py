"""Observations as named entries: what each space is taken for, how it is read, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space, spaces
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.envs.actions import read_actions
from qdreamer.envs.entries import (
    Binary,
    Categorical,
    Entry,
    Image,
    Mask,
    Spec,
    Text,
    Vector,
    bag_of_words,
    read_entries,
    resize,
)
from qdreamer.envs.leaves import UnsupportedSpaceError

BYTES = np.uint8


class Mission(spaces.Space[str]):
    """A space of words that Gymnasium does not know, as MiniGrid's."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return "go to the red ball"


class Odd(spaces.Space[object]):
    """A space that nobody knows."""


def only(space: Space[Any], choice: Any = None, image_size: int = 64) -> Entry:
    entries = read_entries(space, {} if choice is None else {"observation": choice}, image_size)
    (entry,) = entries.values()
    assert list(entries) == ["observation"]
    return entry


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (spaces.Discrete(5), Categorical((5,))),
        (spaces.Discrete(5, start=-2), Categorical((5,))),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), Categorical((2, 3, 4, 5))),
        (spaces.MultiBinary(3), Binary(3)),
        (spaces.MultiBinary((2, 3)), Binary(6)),
        (spaces.Text(9), Text(64)),
        (Mission(), Text(64)),
        (spaces.Box(-np.inf, np.inf, (4,)), Vector(4)),
        (spaces.Box(0, 1, ()), Vector(1)),
        (spaces.Box(0, 1, (2, 3)), Vector(6)),
        (spaces.Box(0, 1, (9, 9)), Vector(81)),  # floats with two axes
        (spaces.Box(-9, 9, (3,), np.int8), Vector(3)),
        (spaces.Box(0, 2, (9, 9, 3)), Vector(243)),  # floats beyond 1
        (spaces.Box(0, 255, (9, 9, 3)), Vector(243)),
        (spaces.Box(0, 255, (128,), BYTES), Vector(128)),
        (spaces.Box(0, 255, (4, 4), BYTES), Vector(16)),  # too small
        (spaces.Box(0, 255, (2, 9, 9, 3), BYTES), Vector(486)),
        (spaces.Box(0, 255, (5, 5), BYTES), Image(5, 5, 1)),
        (spaces.Box(0, 255, (7, 7, 3), BYTES), Image(7, 7, 3)),
        (spaces.Box(0, 255, (64, 48, 3), BYTES), Image(64, 48, 3)),
        (spaces.Box(0, 255, (4, 84, 84), BYTES), Image(84, 84, 4)),
        (spaces.Box(0, 1, (3, 9, 8)), Image(9, 8, 3)),
        (spaces.Box(0, 1, (10, 10, 7), np.bool_), Image(10, 10, 7)),
        (spaces.Box(0, 1, (5, 5, 5)), Image(5, 5, 5)),
        (spaces.Box(0, 1, (10, 10, 20), np.float64), Image(10, 10, 20)),
        (spaces.Box(0, 255, (96, 96, 3), BYTES), Image(96, 96, 3)),
        (spaces.Box(0, 255, (210, 160, 3), BYTES), Image(64, 64, 3)),
        (spaces.Box(0, 255, (3, 210, 16), BYTES), Image(64, 16, 3)),
    ],
)
def test_what_a_space_is_taken_for(space: Space[Any], spec: Spec) -> None:
    entry = only(space)
    assert entry.spec == spec
    space.seed(0)
    for _ in range(5):
        assert entry.read(space.sample()) in entry.space


@pytest.mark.parametrize(
    ("space", "choice", "spec"),
    [
        (spaces.Box(0, 255, (7, 7, 3), BYTES), "vector", Vector(147)),
        (spaces.Box(0, 9, (7, 7)), "image", Image(7, 7, 1)),
        (spaces.Box(0, 255, (3, 7, 7)), "image", Image(7, 7, 3)),
        (spaces.Discrete(9, start=4), "vector", Vector(1)),
        (spaces.MultiDiscrete([2, 3]), "vector", Vector(2)),
        (spaces.MultiBinary(3), "vector", Vector(3)),
    ],
)
def test_the_user_may_take_it_for_something_else(space: Space[Any], choice: str, spec: Spec) -> None:
    entry = only(space, choice)
    assert entry.spec == spec
    assert entry.read(space.sample()) in entry.space


def test_dicts_and_tuples_are_flattened_to_paths() -> None:
    inner = spaces.Dict(wood=spaces.Discrete(3), map=spaces.Box(0, 255, (8, 8), BYTES))
    space = spaces.Dict(inventory=inner, pair=spaces.Tuple([spaces.MultiBinary(2), spaces.Box(0, 1, (3,))]))
    entries = read_entries(space, {"pair/1": "ignore"}, 64)
    assert {name: entry.spec for name, entry in entries.items()} == {
        "inventory/map": Image(8, 8, 1),
        "inventory/wood": Categorical((3,)),
        "pair/0": Binary(2),
    }
    space.seed(3)
    value = space.sample()
    np.testing.assert_array_equal(entries["inventory/wood"].read(value), [value["inventory"]["wood"]])
    np.testing.assert_array_equal(entries["inventory/map"].read(value)[..., 0], value["inventory"]["map"])
    np.testing.assert_array_equal(entries["pair/0"].read(value), value["pair"][0])


# --- reading


def test_classes_are_counted_from_zero_in_as_few_bytes_as_they_need() -> None:
    entry = only(spaces.MultiDiscrete([3, 300], start=[5, -7]))
    np.testing.assert_array_equal(entry.read(np.array([7, 292])), [2, 299])
    assert entry.spec.dtype == np.int16
    assert only(spaces.Discrete(256)).spec.dtype == BYTES
    assert only(spaces.Discrete(40_000)).spec.dtype == np.int32
    assert only(spaces.Discrete(3, start=-1)).read(np.int64(1)) == [2]


@given(st.integers(5, 9), st.integers(5, 9), st.integers(1, 4), st.data())
def test_images_of_any_layout_show_the_same(
    height: int, width: int, channels: int, data: st.DataObject
) -> None:
    pixels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (height, width, channels))
    last = only(spaces.Box(0, 255, pixels.shape, BYTES))
    first = only(spaces.Box(0, 255, (channels, height, width), BYTES))
    floats = only(spaces.Box(0, 1, pixels.shape))
    for entry, value in (
        (last, pixels.astype(BYTES)),
        (first, pixels.transpose(2, 0, 1).astype(BYTES)),
        (floats, np.float32(pixels / 255.0)),
    ):
        np.testing.assert_array_equal(entry.read(value), pixels)


def test_a_larger_image_is_the_mean_of_its_areas() -> None:
    image = np.zeros((128, 128, 5), BYTES)
    image[:64, :, 3] = 100
    image[0, 0, 0] = 200
    small = resize(image, 64, 64)
    assert small.shape == (64, 64, 5)
    assert (small[:32, :, 3] == 100).all() and not small[32:, :, 3].any()
    assert small[0, 0, 0] == 50 and np.count_nonzero(small[..., 0]) == 1
    rgb = np.random.default_rng(0).integers(0, 256, (130, 100, 3)).astype(BYTES)
    together, alone = resize(rgb, 64, 50), [resize(rgb[..., i : i + 1], 64, 50)[..., 0] for i in range(3)]
    np.testing.assert_array_equal(together, np.stack(alone, -1))


def test_words_count_without_order_case_and_number() -> None:
    def words(text: str) -> list[int]:
        return np.flatnonzero(bag_of_words(text, 64)).tolist()

    assert words("go to the red ball") == words("The red ball: go to, GO TO!")
    assert words("pick up the key") != words("pick up the ball")
    assert words("") == []
    entry = only(Mission())
    np.testing.assert_array_equal(entry.read("a key"), bag_of_words("a key", 64))


# --- masks of actions


def test_an_entry_of_the_right_size_called_action_mask_is_one() -> None:
    space = spaces.Dict(seen=spaces.Box(0, 1, (2,)), action_mask=spaces.Box(0, 1, (4,), np.int8))
    entries = read_entries(space, {}, 64, actions=4)
    assert entries["action_mask"].spec == Mask(4)
    value = {"seen": np.zeros(2, np.float32), "action_mask": np.array([1, 0, 0, 1], np.int8)}
    np.testing.assert_array_equal(entries["action_mask"].read(value), [1, 0, 0, 1])
    observed = read_entries(space, {"action_mask": "vector"}, 64, actions=4)
    assert observed["action_mask"].spec == Mask(4, observed=True)
    assert "action_mask" not in read_entries(space, {"action_mask": "ignore"}, 64, actions=4)
    assert read_entries(space, {}, 64, actions=3)["action_mask"].spec == Vector(4)


# --- what is refused

GRAPH = spaces.Graph(spaces.Box(-1, 1, (2,)), None)
LIST = spaces.Sequence(spaces.Discrete(2))
EITHER = spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)])
OUT = "gymnasium.wrappers.Transform"


def seen(space: Space[Any], **choices: Any) -> Callable[[], object]:
    return lambda: read_entries(space, choices, 64)


def done(space: Space[Any]) -> Callable[[], object]:
    return lambda: read_actions(space)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (seen(LIST), ("entry observation", "Sequence", OUT)),
        (seen(GRAPH), ("entry observation", "Graph", OUT)),
        (seen(EITHER), ("entry observation", "OneOf", OUT)),
        (seen(Odd()), ("entry observation", "Odd", OUT)),
        (seen(spaces.Dict(a=spaces.Discrete(2), b=GRAPH)), ("entry b", "Graph", "env.entries.b=ignore", OUT)),
        (seen(spaces.Tuple([EITHER])), ("entry 0", "OneOf", "env.entries.0=ignore")),
        (seen(spaces.Dict(a=spaces.Dict(b=LIST))), ("entry a/b", "Sequence", "env.entries.a/b=ignore")),
        (seen(spaces.Box(0, 1, (0,))), ("entry observation", "(0,)", OUT)),
        (seen(spaces.Dict()), ("no entry", "env.entries")),
        (seen(spaces.Dict(a=spaces.Discrete(2)), a="ignore"), ("no entry", "ignore fewer")),
        (
            seen(spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict(b=spaces.Discrete(2))})),
            ("two entries are called a/b", "rename"),
        ),
        (seen(spaces.Dict(a=spaces.Discrete(2)), b="ignore"), ("env.entries.b", "they are a")),
        (seen(spaces.Discrete(2), observation="image"), ("env.entries.observation=image", "Discrete(2)")),
        (seen(spaces.Text(3), observation="vector"), ("entry observation", "Text", OUT)),
        (seen(spaces.Box(-np.inf, np.inf, (9, 9)), observation="image"), ("(9, 9)", "finite bounds")),
        (seen(spaces.Box(0, 255, (3, 3), BYTES), observation="image"), ("(3, 3)", "sides of 5 or more")),
        (done(spaces.Box(-np.inf, np.inf, (2,))), ("entry action", "Box(-inf, inf, (2,)", OUT)),
        (done(spaces.Box(-np.inf, 1, (2,))), ("entry action", "without finite bounds", OUT)),
        (done(spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, np.inf, (1,)))), ("entry b", "inf", OUT)),
        (done(LIST), ("entry action", "Sequence", OUT)),
        (done(GRAPH), ("entry action", "Graph", OUT)),
        (done(spaces.Tuple([spaces.Discrete(2), EITHER])), ("entry 1", "OneOf", OUT)),
        (done(spaces.Text(4)), ("entry action", "Text", OUT)),
        (done(spaces.Dict()), ("nothing to choose",)),
    ],
)
def test_odd_spaces_are_refused_in_one_line_that_names_a_way_out(
    read: Callable[[], object], words: tuple[str, ...]
) -> None:
    with pytest.raises(UnsupportedSpaceError) as caught:
        read()
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    assert "\n" not in text and len(text) < 350


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Box(-9, 9, (6,), np.float32)]
)
def test_what_lies_backwards_in_memory_is_turned(space: spaces.Box) -> None:
    (entry,) = read_entries(space, {}, 64).values()
    value = space.sample()
    turned = entry.read(value[::-1].copy()[::-1])
    np.testing.assert_array_equal(turned, entry.read(value))
    assert torch.equal(torch.from_numpy(turned), torch.from_numpy(entry.read(value)))
