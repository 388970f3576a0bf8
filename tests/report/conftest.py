import pytest

from tests.report.browser import chromium


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests of pages."""
    with chromium() as found:
        yield found
