"""RankSync of several ranks is tested in tests/distributed/test_sharding.py."""

import os
import signal

from transformerlm.distributed.ranks import SINGLE_PROCESS
from transformerlm.training.rank_sync import make_rank_sync
from transformerlm.training.timers import SAVING, Clock


def test_a_single_process_goes_by_its_own_clock_and_signals_as_they_are():
    clock = Clock()
    rank_sync = make_rank_sync(clock, SINGLE_PROCESS)
    assert rank_sync.clock is clock
    with rank_sync.signals:
        clock.spend(SAVING)
        rank_sync.sync()
        assert (rank_sync.received, rank_sync.exit_status) == (None, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (rank_sync.received, rank_sync.exit_status) == (signal.SIGTERM, 143)
    assert rank_sync.exit_status == 143
