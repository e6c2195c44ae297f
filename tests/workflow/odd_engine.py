#!/usr/bin/env python3
"""Stands in for llama-server and answers as the first word of a prompt asks: see test_streams.py.

The first token comes 20 ms after a request and one each 5 ms after it, unless the word says otherwise. Its metrics page
is a JSON text, which nobody can read.
"""

import asyncio
import json
import sys

EVENTS = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
seen = {}


def event(data):
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def text(words, finish=None, **more):
    return event({"choices": [{"index": 0, "text": words, "finish_reason": finish}], **more})


async def complete(body, writer):
    count, kind = body["max_tokens"], str(body["prompt"]).split()[0]
    number = seen[kind] = seen.get(kind, -1) + 1
    usage = {"prompt_tokens": 8, "completion_tokens": count, "total_tokens": 8 + count}
    if kind == "document":
        await asyncio.sleep(0.03)
        return document(
            writer, json.dumps({"choices": [{"text": "a " * count, "finish_reason": "length"}], "usage": usage})
        )
    if kind == "limited" and number % 2:
        return document(writer, "slow down", "text/plain", "429 Too Many Requests\r\nRetry-After: 1")

    async def put(data):
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await writer.drain()

    writer.write(EVENTS.encode())
    if kind == "heartbeat":
        for _ in range(4):
            await put(text(""))
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.02)
    for index in range(count):
        if index == 3 and number % 2 and kind == "error":
            await put(b"event: error\n" + event({"message": "out of memory"}))
        elif index == 3 and number % 2 and kind == "abort":
            await put(text("", "abort") + event(b"[DONE]"))
        else:
            zero = {"usage": {**usage, "completion_tokens": 0}} if kind == "zero" else {}
            half = text(" a", **zero).replace(b" a", b"\xe4\xbd") if kind == "half" else text(" a", **zero)
            await put(half)
            await asyncio.sleep(0.005)
            continue
        break
    else:
        await put(text("", "length") + event({"choices": [], "usage": usage}) + event(b"[DONE]"))
    writer.write(b"0\r\n\r\n")


def document(writer, words, kind="application/json", status="200 OK"):
    data = words.encode()
    writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            length = next((int(line[15:]) for line in head if line.startswith("content-length:")), 0)
            body, path = await reader.readexactly(length), head[0].split(" ")[1]
            if path == "/metrics":
                document(writer, json.dumps("# TYPE llamacpp:requests_processing gauge\n"), "text/plain")
            elif path.startswith("/v1/completions"):
                await complete(json.loads(body), writer)
            else:
                document(writer, "[]" if path == "/slots" else '{"status": "ok", "total_slots": 4, "content": "x"}')
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    if "--version" in sys.argv:
        print("version: 7100 (stand-in)")
        return
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]), limit=1 << 24)
    async with server:
        await server.serve_forever()


asyncio.run(main())
