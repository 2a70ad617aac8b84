"""A SuperLink whose folder another process holds: what that one works with stays as it is."""

import pytest

from common.errors import WorkError
from common.processes import ProcessTree
from server.provision import make_certificates
from server.superlink import Superlink


@pytest.mark.parametrize("held", ["superlink", "superexec"])
def test_a_second_start_is_refused_and_leaves_the_firsts_secret(tmp_path, held):
    folder = tmp_path / "superlink"
    second = Superlink(folder, make_certificates(tmp_path / "pki", ["localhost"]))
    folder.mkdir()
    second.secret.write_bytes(b"the first one's")
    first = ProcessTree(held, folder)
    first.claim()
    try:
        with pytest.raises(WorkError, match="another"):
            second.start()
        assert second.secret.read_bytes() == b"the first one's"
        assert first.owned()
    finally:
        first.stop()
