"""Places at a Triton: as many as there are, and of suspects one."""

from __future__ import annotations

import asyncio
from typing import Any

from backdrop_server.gateway.pool import TritonPool
from backdrop_server.gateway.tritons import HttpTriton


def pool_of(count: int, places: int) -> TritonPool:
    tritons = [HttpTriton(f"127.0.0.1:{port}") for port in range(1, count + 1)]
    for triton in tritons:
        triton.is_up = True
    return TritonPool(tritons, places)


async def is_free(pool: TritonPool, **how: Any) -> bool:
    try:
        async with asyncio.timeout(0.05), pool.place(60, **how):
            return True
    except TimeoutError:
        return False


def test_a_triton_has_one_suspect_at_a_time() -> None:
    async def check() -> None:
        pool = pool_of(1, 3)
        async with pool.place(60, losses=5):
            assert not await is_free(pool, losses=5)
            async with pool.place(60):
                assert not await is_free(pool, losses=5)
                assert await is_free(pool)
        assert await is_free(pool, losses=5)
        assert [(t.in_flight, t.suspects) for t in pool.tritons] == [(0, 0)]
        await pool.close()

    asyncio.run(check())


def test_each_triton_has_one() -> None:
    async def check() -> None:
        pool = pool_of(2, 3)
        async with pool.place(60, losses=5) as first, pool.place(60, losses=5) as second:
            assert first is not second
            assert not await is_free(pool, losses=5)
        await pool.close()

    asyncio.run(check())


def test_a_suspect_that_was_lost_goes_behind_those_that_wait() -> None:
    async def check() -> None:
        pool = pool_of(1, 3)
        order: list[str] = []

        async def suspect(name: str, losses: int) -> None:
            for had in range(losses + 1):
                async with pool.place(60, losses=5 + had):
                    order.append(f"{name}{had}")
                    await asyncio.sleep(0.01)

        await asyncio.gather(suspect("a", 2), suspect("b", 0), suspect("c", 0))
        assert order == ["a0", "b0", "c0", "a1", "a2"]
        await pool.close()

    asyncio.run(check())
