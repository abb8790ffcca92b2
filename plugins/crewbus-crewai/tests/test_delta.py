"""Differences: applying one yields the new value, and that of a growing list has only the new items."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from crewbus_crewai.delta import applied, difference

PLAIN = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 0.5]) | st.text(max_size=2)
KEYS = st.sampled_from("abc")
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_a_difference_leads_from_one_value_to_the_other(old, new):
    before = json.dumps(old)
    change = json.loads(json.dumps(difference(old, new)))
    assert json.dumps(applied(old, change), sort_keys=True) == json.dumps(new, sort_keys=True)
    assert json.dumps(old) == before


@given(st.dictionaries(KEYS, JSON, max_size=3), st.lists(JSON, max_size=4), JSON)
def test_the_difference_of_a_growing_list_has_only_the_new_items(around, items, item):
    old, new = {**around, "items": items}, {**around, "items": [*items, item]}
    assert difference(old, new) == {"set": {"items": {"add": [item]}}}
