import pytest


@pytest.fixture(scope="session")
def transformers():
    """The peer. It is imported where a test needs it: that takes longer than most tests."""
    return pytest.importorskip("transformers")
