"""What several ranks do with it is in test_sharding.py."""

import os
import signal

from transformerlm.training.rank_sync import Lockstep
from transformerlm.training.timers import SAVING, Clock


def test_a_single_rank_goes_by_its_own_clock_and_signals_as_they_are():
    clock = Clock()
    lockstep = Lockstep(clock)
    assert lockstep.clock is clock
    with lockstep.signals:
        clock.spend(SAVING)
        lockstep.sync()
        assert (lockstep.received, lockstep.exit_status) == (None, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (lockstep.received, lockstep.exit_status) == (signal.SIGTERM, 143)
    assert lockstep.exit_status == 143
