"""The child of the balancer's tests: a small instance of the service, on uvicorn.

`python small_service.py PORT DELAY STATUS` listens on 127.0.0.1 and prints its port. What is asked under /v1/
is answered after DELAY seconds with STATUS, a Retry-After of 30 s where that is 503, and a JSON object:
`pid`, and `path`, `query`, `body` and `headers` of the request. Where the client leaves before, it prints
"left".
"""

import asyncio
import json
import os
import socket
import sys

import uvicorn

METRICS = b"brein_memory_usage_bytes 1e6\nbrein_cpu_seconds_total 1\n"


def application(delay, status):
    async def answer(scope, receive, send):
        path = scope["raw_path"].decode()
        if not path.startswith("/v1/"):
            await respond(send, 200, METRICS if path == "/metrics" else b"")
            return
        body = await read(receive)
        leaving = asyncio.ensure_future(receive())  # after the body, the next message is that they have left
        await asyncio.wait([leaving], timeout=delay)
        if leaving.done():
            print("left", flush=True)
            return
        leaving.cancel()
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        told = {
            "pid": os.getpid(),
            "path": path,
            "query": scope["query_string"].decode(),
            "body": body.decode(),
            "headers": headers,
        }
        await respond(send, status, json.dumps(told).encode())

    return answer


async def read(receive):
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            return body


async def respond(send, status, body):
    headers = [(b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", b"30"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    port, delay, status = sys.argv[1:]
    with socket.create_server(("127.0.0.1", int(port))) as listening:
        print(listening.getsockname()[1], flush=True)
        app = application(float(delay), int(status))
        config = uvicorn.Config(app, lifespan="off", ws="none", log_level="error")
        uvicorn.Server(config).run([listening])
