"""Schemathesis drives every operation of /openapi.json: no reply may be a server error."""

import pathlib
import subprocess
import sys

from checks import Checks

checks = Checks()


def survives():
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    command = [
        program,
        "run",
        f"{checks.url}/openapi.json",
        "--checks",
        "not_a_server_error",
        "--max-examples",
        "15",
        "--seed",
        "1",
        "--phases",
        "examples,coverage,fuzzing",
        "--request-timeout",
        "30",
        "--no-color",
    ]
    # It leaves a cache where it runs.
    done = subprocess.run(command, cwd=checks.args.out, capture_output=True, text=True, timeout=900)
    print(done.stdout[-3000:], done.stderr[-1000:])
    assert done.returncode == 0, f"schemathesis exits {done.returncode}"


checks.run("no 5xx", survives)
checks.finish()
