"""Exceptions that are kept and raised later."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress

import pytest

from crewbus._util.errors import raise_first


class Refused(Exception):
    pass


@pytest.fixture
def without_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def raises_kept(refs, count):
    errors = []
    for number in range(count):
        try:
            raise Refused(number)
        except Refused as error:
            errors.append(error)
            refs.append(weakref.ref(error))
    raise_first(errors)


def test_raise_first_raises_the_first_of_several():
    with pytest.raises(Refused) as caught:
        raises_kept([], 3)
    assert caught.value.args == (0,)


def test_raise_first_of_an_empty_list_does_nothing():
    raise_first([])


@pytest.mark.usefixtures("without_gc")
def test_raise_first_leaves_no_reference_cycle():
    refs: list[weakref.ref[Refused]] = []
    with suppress(Refused):
        raises_kept(refs, 3)
    assert [ref() for ref in refs] == [None] * 3
