"""Frees what calls leave in memory once it is much.

Flower 1.41 leaves a call's body and answer in cycles of references. Python looks for such by the number of objects, not
by their size, and finds them after some hundred calls, of 5 MB each.
"""

import gc

from server.whole_bodies import App, Receive, Send, Told

COLLECT_BYTES = 16 << 20
"""After so much in bodies and answers memory is gone through."""


class CollectedBodies:
    """An ASGI application that passes all on to `app`, whose objects from before its start are not gone through."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._num_bytes = 0

    async def __call__(self, scope: Told, receive: Receive, send: Send) -> None:
        """Counts what passes, and collects afterwards."""
        if scope["type"] == "lifespan":
            gc.freeze()  # 226,000 objects of modules: 0.2 s each time

        async def counted() -> Told:
            return self._counted(await receive())

        async def sent(told: Told) -> None:
            await send(self._counted(told))

        await self._app(scope, counted, sent)
        if self._num_bytes >= COLLECT_BYTES:
            self._num_bytes = 0
            gc.collect()

    def _counted(self, told: Told) -> Told:
        self._num_bytes += len(told.get("body", b""))
        return told
