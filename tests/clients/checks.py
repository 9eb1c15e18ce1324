"""Counts checks and prints one line for each; shared by the client scripts."""

import argparse
import asyncio
import inspect
import json
import sys
import traceback


class Checks:
    """Named checks of one client; `finish` exits with their outcome."""

    def __init__(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("--url", required=True, help="base, http://127.0.0.1:PORT")
        parser.add_argument("--locked-url", help="base of a server that wants the key `sesame`")
        parser.add_argument("--clips", required=True, help="expected.json that run.py wrote")
        parser.add_argument("--out", required=True, help="folder for screenshots")
        self.args = parser.parse_args()
        self.url = self.args.url
        self.ws_url = self.url.replace("http", "ws", 1)
        with open(self.args.clips, encoding="utf-8") as file:
            self.clips = json.load(file)
        self.passed, self.failed = 0, 0

    def clip(self, name):
        return self.clips[name]

    def run(self, name, check, *args):
        """Runs `check`, plain or async; an exception is its failure."""
        try:
            result = check(*args)
            if inspect.isawaitable(result):
                asyncio.run(within(result))
        except Exception as error:  # whatever a client throws is what the check found
            self.failed += 1
            print(f"FAIL {name}: {type(error).__name__}: {str(error)[:2000]}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc(limit=-4)
        else:
            self.passed += 1
            print(f"ok   {name}", flush=True)

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(self.failed > 0 or self.passed == 0)


async def within(awaitable, seconds=120):
    return await asyncio.wait_for(awaitable, seconds)


def equal(found, expected, what=""):
    assert found == expected, f"{what}: {found!r} instead of {expected!r}"
