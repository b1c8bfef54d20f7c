"""The cycle collector is off only where it is asked to be."""

import gc

import pytest

from llava.utils import gc_disabled


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_is_as_before_even_after_an_error(before):
    was = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with pytest.raises(KeyError), gc_disabled():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == before
    finally:
        (gc.enable if was else gc.disable)()


def test_frozen_objects_are_not_looked_at_again():
    try:
        with gc_disabled(freeze=True):
            kept = [[]]
        assert gc.get_freeze_count() > 0 and not any(found is kept for found in gc.get_objects())
    finally:
        gc.unfreeze()
