"""Asks a server for a sign of life until stdin ends; prints how many seconds each answer took, as JSON."""

import http.client
import json
import select
import sys
import time


def main() -> None:
    times = []
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        answer.read()
        connection.close()
        times.append(time.monotonic() - start)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
