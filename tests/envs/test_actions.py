"""Action vectors: their leaves, and what the environment gets of them."""

from typing import Any

import numpy as np
import pytest
from gymnasium import Space, spaces
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.envs.actions import ActionSpec, Classes, Numbers, read_actions


@st.composite
def action_spaces(draw: st.DrawFn, depth: int = 2) -> Space[Any]:
    kinds = ["discrete", "multi", "binary", "box", "integers"]
    kind = draw(st.sampled_from(kinds + ["dict", "tuple"] * (depth > 0)))
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    if kind == "discrete":
        return spaces.Discrete(draw(st.integers(1, 5)), start=draw(st.integers(-9, 9)))
    if kind == "multi":
        sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
        return spaces.MultiDiscrete(sizes, start=draw(st.lists(st.integers(-9, 9), min_size=len(sizes),
                                                               max_size=len(sizes))))  # fmt: skip
    if kind == "binary":
        return spaces.MultiBinary(shape or 2)
    if kind in ("box", "integers"):
        dtype = draw(st.sampled_from([np.float32, np.float64] if kind == "box" else [np.int8, np.uint8]))
        low = draw(st.integers(0, 5))
        return spaces.Box(low, low + draw(st.integers(0, 9)), shape, dtype)
    inner = draw(st.lists(action_spaces(depth - 1), min_size=1, max_size=3))
    return spaces.Tuple(inner) if kind == "tuple" else spaces.Dict({f"k{i}": s for i, s in enumerate(inner)})


@given(action_spaces(), st.integers(0, 99))
def test_random_vectors_become_elements_of_the_space(space: Space[Any], seed: int) -> None:
    spec, to_environment = read_actions(space)
    actions = spec.random(4, np.random.default_rng(seed))
    assert actions.shape == (4, spec.size) and actions.dtype == np.float32
    assert actions[0] in spec.space
    for action in (*actions, np.full(spec.size, -3.0, np.float32), np.full(spec.size, 3.0, np.float32)):
        assert space.contains(to_environment(action))


@pytest.mark.parametrize(
    ("space", "leaves"),
    [
        (spaces.Discrete(3, start=1), [Classes(3)]),
        (spaces.Box(-2, 2, (1,)), [Numbers(1)]),
        (spaces.Box(0, 1, (2, 2), np.float64), [Numbers(4)]),
        (spaces.MultiDiscrete([3, 3, 2]), [Classes(3, 2), Classes(2)]),
        (spaces.MultiBinary((2, 2)), [Classes(2, 4)]),
        (
            spaces.Dict(
                a=spaces.Discrete(3), b=spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.MultiBinary(1)])
            ),
            [Classes(3), Numbers(2), Classes(2)],
        ),
    ],
)
def test_leaves(space: Space[Any], leaves: list[Any]) -> None:
    spec, _ = read_actions(space)
    assert list(spec.leaves) == leaves
    assert spec.size == sum(part.stop - part.start for part in spec.slices)


def test_every_number_reaches_the_leaf_that_it_belongs_to() -> None:
    space = spaces.Dict(
        a=spaces.Discrete(3, start=10),
        b=spaces.Tuple([spaces.Box(0, 4, (2,)), spaces.MultiDiscrete([2, 3], start=[5, 6])]),
    )
    _, to_environment = read_actions(space)
    made = to_environment(np.array([0, 0, 1, -1.0, 0.5, 1, 0, 0, 1, 0], np.float32))
    assert made["a"] == 12
    np.testing.assert_allclose(made["b"][0], [0.0, 3.0])
    np.testing.assert_array_equal(made["b"][1], [5, 7])
    assert made in space


def test_integers_in_boxes_are_rounded_and_fixed_numbers_stay() -> None:
    _, to_environment = read_actions(spaces.Box(np.array([0, 3]), np.array([10, 3]), dtype=np.int32))
    for value, expected in ((-1.0, 0), (0.0, 5), (0.09, 5), (0.11, 6), (2.0, 10)):
        np.testing.assert_array_equal(to_environment(np.full(2, value, np.float32)), [expected, 3])


def test_masked_actions_are_never_drawn_and_the_others_equally_often() -> None:
    spec = ActionSpec((Classes(3, 2),))
    mask = np.tile(np.uint8([1, 0, 1, 0, 0, 0]), (4000, 1))  # the second choice has a mask that forbids all
    counts = spec.random(4000, np.random.default_rng(0), mask).mean(0)
    np.testing.assert_allclose(counts, [1 / 2, 0, 1 / 2, 1 / 3, 1 / 3, 1 / 3], atol=0.03)
    assert counts[1] == 0


def test_descriptions_name_counts_and_bounds() -> None:
    assert str(ActionSpec((Classes(3, 2), Numbers(2), Classes(4)))) == (
        "2 × one of 3, 2 in [−1, 1], one of 4"
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_whatever_is_chosen_lies_in_the_box_and_is_of_its_type(dtype: type[np.floating[Any]]) -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        low = random.normal(size=3).astype(dtype)
        high = np.where(
            [True, True, False], low + random.uniform(0.01, 2, 3).astype(dtype), low
        )  # one is locked
        space = spaces.Box(low, high.astype(dtype), dtype=dtype)
        spec, to_environment = read_actions(space)
        for action in (-1.0, 1.0, -3.0, 3.0, *random.uniform(-1, 1, 5)):
            assert space.contains(to_environment(np.full(spec.size, action, np.float32)))


@pytest.mark.parametrize(("limit", "dtype"), [(3.4e38, np.float32), (1.7e308, np.float64), (6e4, np.float16)])
def test_bounds_whose_distance_is_beyond_their_type_are_met(
    limit: float, dtype: type[np.floating[Any]]
) -> None:
    space = spaces.Box(-limit, limit, (1,), dtype)
    _, to_environment = read_actions(space)
    for action in (-1.0, 0.0, 0.25, 1.0):
        chosen = to_environment(np.full(1, action, np.float32))
        assert space.contains(chosen)
        np.testing.assert_allclose(chosen / limit, action, atol=1e-3)
