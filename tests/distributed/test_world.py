import pytest

from transformerlm.distributed.collectives import ranks_from_environment
from transformerlm.distributed.ranks import SINGLE_PROCESS
from transformerlm.distributed.world import World
from transformerlm.errors import ConfigError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def environment(monkeypatch):
    def use(**values):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return use


def test_without_torchrun_it_is_one_process(environment):
    environment()
    assert World.from_environment() == World() == World(rank=0, size=1, local_rank=0, local_size=1)
    assert ranks_from_environment() is SINGLE_PROCESS
    assert SINGLE_PROCESS.is_main


@pytest.mark.parametrize(
    ("values", "world"),
    [
        (("0", "1", "0", "1"), World()),
        (("5", "8", "1", "4"), World(rank=5, size=8, local_rank=1, local_size=4)),
        (("0", "8", "0", "4"), World(rank=0, size=8, local_rank=0, local_size=4)),
        (("1", "2", "1"), World(rank=1, size=2, local_rank=1)),
    ],
)
def test_torchrun_s_variables(environment, values, world):
    environment(**dict(zip(NAMES, values, strict=False)))
    assert World.from_environment() == world
    assert world.is_main == (values[0] == "0")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"RANK": "1"}, "got RANK=1 without WORLD_SIZE and LOCAL_RANK; set all of them, or none"),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "got WORLD_SIZE=2 LOCAL_RANK=0 without RANK"),
        ({"RANK": "one", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=one .* whole numbers"),
        ({"RANK": "-1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=-1 .* whole numbers"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "a rank is below the number of ranks"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "a rank is below the number of ranks"),
        ({"RANK": "0", "WORLD_SIZE": "0", "LOCAL_RANK": "0"}, "a rank is below the number of ranks"),
    ],
)
def test_variables_that_do_not_fit_each_other_are_refused_in_a_line(environment, values, words):
    environment(**values)
    with pytest.raises(ConfigError, match=words) as caught:
        World.from_environment()
    assert len(caught.value.lines) == 1
