# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Python 3.10 lacks, which is upstream's and so in the image with its pins."""

from __future__ import annotations

import sys

__all__ = ["UTC", "StrEnum", "timeout", "timeout_at"]

if sys.version_info >= (3, 11):
    from asyncio import timeout, timeout_at
    from datetime import UTC
    from enum import StrEnum
else:
    import asyncio
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager, asynccontextmanager
    from datetime import timezone
    from enum import Enum

    import async_timeout

    UTC = timezone.utc

    class StrEnum(str, Enum):
        """Members are strings, and print as such."""

        __str__ = str.__str__

    @asynccontextmanager
    async def timeout_at(when: float) -> AsyncIterator[None]:
        """Raises the TimeoutError that is not asyncio's own yet."""
        try:
            async with async_timeout.timeout_at(when):
                yield
        except asyncio.TimeoutError:
            raise TimeoutError from None

    def timeout(seconds: float) -> AbstractAsyncContextManager[None]:
        """As timeout_at, from now on."""
        return timeout_at(asyncio.get_running_loop().time() + seconds)
