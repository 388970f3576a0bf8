import pytest

from tests.serve.servers import served
from tests.small_models import language_model


@pytest.fixture(scope="session")
def lm():
    return language_model(kernels=True)


@pytest.fixture(scope="session")
def server(lm):
    """A server that tests only ask."""
    with served(lm) as found:
        yield found
