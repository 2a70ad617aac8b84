"""Something that is looked at again and again beside other work."""

import threading

from deploy.repeated import Repeated


def test_it_looks_at_once_and_again_and_stops_with_the_block():
    looks, seen = [], threading.Event()

    def look():
        looks.append(threading.current_thread().name)
        if len(looks) == 3:
            seen.set()
        return 0.0

    with Repeated("watcher", look):
        assert seen.wait(30)
    num_looks = len(looks)
    assert num_looks >= 3
    assert set(looks) == {"watcher"}
    assert not any(thread.name == "watcher" for thread in threading.enumerate())


def test_a_long_pause_does_not_hold_the_block_up():
    looks = []

    def look():
        looks.append(1)
        return 3600.0

    with Repeated("watcher", look):
        pass
    assert looks == [1]
