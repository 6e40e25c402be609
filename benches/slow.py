"""Holds many slow connections at a gateway: whoever is cut off comes again at once.

    slow.py PORT CONNECTIONS PER_ADDRESS SECONDS

A third creeps through the head of a request, a third sends a body just fast enough to be borne, a third has asked once and
stays. Each loopback address holds PER_ADDRESS of them. Says `held N` once all are open, and at the end how many were open at
the least and how often one was cut off.
"""

import asyncio
import collections
import sys
import time

PORT, CONNECTIONS, PER_ADDRESS, SECONDS = (int(word) for word in sys.argv[1:5])
# A little above [server.limits] min_body_rate.
BODY_BYTES, BODY_EVERY = 1200, 8
count = collections.Counter()
least = None


async def head(reader, writer):
    writer.write(b"GET /free HTTP/1.1\r\nHost: slow\r\nX-Slow: ")
    while not reader.at_eof():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(2)


async def body(reader, writer):
    writer.write(b"POST /free HTTP/1.1\r\nHost: slow\r\nContent-Length: 1000000\r\n\r\n")
    while not reader.at_eof():
        writer.write(b"x" * BODY_BYTES)
        await writer.drain()
        await asyncio.sleep(BODY_EVERY)


async def idle(reader, writer):
    writer.write(b"GET /free HTTP/1.1\r\nHost: slow\r\n\r\n")
    while await reader.read(4096):
        pass


async def hold(number, end):
    address = number // PER_ADDRESS
    local = f"127.0.{1 + address // 250}.{1 + address % 250}"
    kind = (head, body, idle)[number % 3]
    while time.monotonic() < end:
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT, local_addr=(local, 0), limit=4096)
            count["open"] += 1
            try:
                await kind(reader, writer)
            finally:
                count["open"] -= 1
            count[f"cut off: {kind.__name__}"] += 1
        except OSError:
            count[f"cut off: {kind.__name__}"] += 1
        finally:
            if writer is not None:
                writer.close()
        await asyncio.sleep(0.1)


async def watch():
    global least
    told = False
    while True:
        await asyncio.sleep(1)
        if not told and count["open"] >= CONNECTIONS * 0.97:
            told = True
            print(f"held {count['open']}", flush=True)
        if told:
            least = count["open"] if least is None else min(least, count["open"])


async def main():
    end = time.monotonic() + SECONDS
    watching = asyncio.create_task(watch())
    tasks = []
    for number in range(CONNECTIONS):
        tasks.append(asyncio.create_task(hold(number, end)))
        if number % 100 == 99:
            await asyncio.sleep(0.05)
    await asyncio.sleep(max(0, end - time.monotonic()))
    watching.cancel()
    print(f"slow connections: {least} open at the least; {dict(count)}", flush=True)


asyncio.run(main())
