"""One connection, with limits: whoever does not keep to them loses the connection and takes nothing from the others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

REQUEST_SECONDS = 10.0  # from the first byte of a connection to the end of its request
SEND_SECONDS = 20.0  # a client that takes nothing for so long has gone
MOST_CONNECTIONS = 256  # of all clients; those that have asked nothing yet go first
MOST_UNSENT = 256e6  # bytes of all connections together
_ROOM = 2**18  # bytes that wait on one connection, up to which it is told about progress
_CONTROL = 50.0  # pings, pongs and parts of messages a second, after a store of as many


class Allowance:
    """A store that fills again evenly: how much may be taken at once, and in the long run."""

    def __init__(self, rate: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            rate: what comes back in a second.
            most: what the store holds.
        """
        self.rate, self.most, self._clock = rate, most, clock
        self._left, self._at = most, clock()

    def take(self, amount: float = 1.0) -> float:
        """Seconds until what was taken, with this, has come back; 0 while the store holds it."""
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self.rate, self.most) - amount
        self._at = now
        return max(-self._left / self.rate, 0.0)


class Connection(ServerConnection):
    """A connection of a browser.

    A request must be there in time. When there are too many connections, the oldest without a request goes. What only
    makes work, and no page sends (pings without end, messages in thousands of parts), ends it. A message that is not
    taken in time ends it too.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._control = Allowance(_CONTROL, 4.0 * _CONTROL)
        self._waiting = self.loop.call_later(REQUEST_SECONDS, self._without_request)
        alive = [other for other in self.server.handlers if not other.transport.is_closing()]
        if len(alive) > MOST_CONNECTIONS:
            next((other for other in alive if other.request is None), self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.cancel()
        super().connection_lost(exc)

    def _without_request(self) -> None:
        if self.request is None:
            self.transport.abort()

    def process_event(self, event: object) -> None:
        makes_work = isinstance(event, Frame) and event.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE)
        if makes_work and self._control.take() > 0.0:
            self.transport.abort()
            return
        super().process_event(event)  # type: ignore[arg-type]

    @property
    def unsent(self) -> int:
        """Bytes that the other end has not taken yet."""
        return self.transport.get_write_buffer_size()

    async def deliver(self, message: str | bytes, *, progress: bool = False) -> None:
        """Send a message, or end the connection if there is no room in time.

        Args:
            progress: more of its kind follow, so it is dropped while there is no room.
        """
        if progress and self.unsent > _ROOM:
            return
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.send(message)
        except TimeoutError:
            self.transport.abort()
        except ConnectionClosed:
            pass

    def post(self, message: str | bytes, *, progress: bool = False) -> None:
        """`deliver`, from any other thread, without waiting."""
        self._from_outside(message, progress)

    def put(self, message: str | bytes) -> None:
        """`deliver`, from any other thread: waits until the browser has room, so pictures never pile up."""
        if (sending := self._from_outside(message, False)) is not None:
            with contextlib.suppress(TimeoutError, CancelledError):  # the viewer ends
                sending.result(2.0 * SEND_SECONDS)

    def _from_outside(self, message: str | bytes, progress: bool) -> Future[None] | None:
        if self.loop.is_closed():
            return None
        sending = self.deliver(message, progress=progress)
        try:
            return asyncio.run_coroutine_threadsafe(sending, self.loop)
        except RuntimeError:  # closed meanwhile
            sending.close()
            return None
