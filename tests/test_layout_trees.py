"""Random layout trees, whole and damaged in every way, go through the reader and the painter."""
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epuredgm.core.errors import DataError
from epuredgm.data.layout_trees import as_json, paint_page, parse_deep, tree_from, tree_of

sizes = st.integers(1, 60)
coordinates = st.one_of(st.integers(-80, 120), st.floats(-80, 120))
lengths = st.one_of(st.integers(0, 90), st.floats(0, 90))
boxes = st.tuples(coordinates, coordinates, lengths, lengths).map(list)
# What files have held where a number, a box or a node was expected.
junk = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.integers(), st.floats(), st.just(10**400), st.just(-1e308), st.just(1e308))
bad_boxes = st.one_of(junk, st.lists(junk, max_size=5), st.dictionaries(st.sampled_from(["x", "y", "width", "height"]), junk))


def nodes(box, children, damaged):
    "Nested nodes with the keys of a format."
    leaf = st.fixed_dictionaries({box: boxes} if not damaged else {}, optional={box: st.one_of(boxes, bad_boxes)} if damaged else {})

    def grown(inner):
        kids = st.lists(inner, max_size=4)
        return st.tuples(leaf, st.one_of(kids, junk) if damaged else kids).map(lambda pair: pair[0] | {children: pair[1]})

    return st.recursive(st.one_of(leaf, junk) if damaged else leaf, grown, max_leaves=25)


def plain(node, canvas):
    "The painter as the document writes it; how many levels it went down."
    x, y, width, height = node["b"]
    left, top, right, bottom = (math.floor(side + 0.5) for side in (x, y, x + width, y + height))
    canvas[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] += 1.0
    for child in node.get("c", []):
        plain(child, canvas)


@settings(max_examples=300, deadline=None)
@given(nodes("b", "c", False), sizes, sizes, st.sampled_from([1.0, 2.0]))
def test_painting_equals_the_recursive_painter(root, width, height, gamma):
    canvas = np.zeros((height, width))
    plain(root, canvas)
    tree = tree_of({"r": root, "w": width, "h": height})
    if not canvas.any():
        with pytest.raises(DataError, match="no node of this page has a pixel"):
            paint_page(tree)
        return
    assert np.array_equal(paint_page(tree, gamma), np.rint(255 * (canvas / canvas.max()) ** gamma))


@settings(max_examples=100, deadline=None)
@given(nodes("b", "c", False), sizes, sizes)
def test_the_three_formats_say_the_same(root, width, height):
    tree = tree_of({"r": root, "w": width, "h": height})
    for layout in ("compact", "verbose", "rico"):
        again = tree_from(json.dumps(as_json(tree, layout)).encode())
        assert (again.width, again.height) == (width, height)
        # Width is right − left and back: the same to the last bit of a double, and the same pixels but for halves.
        assert np.allclose(again.boxes[-len(tree) :], tree.boxes, rtol=0, atol=1e-9)


@settings(max_examples=300, deadline=None)
@given(st.one_of(
    st.fixed_dictionaries({"r": nodes("b", "c", True)}, optional={"w": st.one_of(sizes, junk), "h": st.one_of(sizes, junk)}),
    nodes("bounds", "children", True), st.fixed_dictionaries({"activity": st.fixed_dictionaries({"root": nodes("bounds", "children", True)})}), junk,
), st.booleans())
def test_damage_costs_a_node_or_gives_a_sentence(value, relative):
    try:
        tree = tree_from(json.dumps(value).encode(), relative)
        picture = paint_page(tree)
    except DataError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert picture.shape == (tree.height, tree.width) and picture.max() == 255
    assert np.isfinite(tree.boxes).all() and all(count > 0 for count in tree.left_out.values())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_tree_or_a_sentence(data):
    try:
        tree_from(data)
    except DataError as error:
        assert str(error)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4)), max_leaves=20)


@settings(max_examples=200, deadline=None)
@given(values, st.sampled_from([None, 2]))
def test_the_parser_without_recursion_reads_json(value, indent):
    assert parse_deep(json.dumps(value, indent=indent)) == value


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='[]{},:"a1 -\\', max_size=12))
def test_the_parser_without_recursion_refuses_what_json_refuses(text):
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            parse_deep(text)
        return
    assert parse_deep(text) == expected
