"""Real clients against the built server: what they receive equals what the command line prints.

    python tests/clients/run.py --binary target/debug/funasr-candle [--out DIR] [--only openai ...]

Each client has an environment of its own (the two PyPI packages for FunASR install modules of one name), kept in
`--cache` between runs. `browser` needs Chromium and ChromeDriver (CHROMIUM, CHROMEDRIVER; by default Debian's).
Prints 'N passed, N failed' and exits with 1 unless everything passed.
"""

import argparse
import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CLIENTS = ("funasr-client", "funasr-python", "openai", "grpc", "openapi", "browser")
KEY = "sesame"


def environment(name, cache):
    """The Python of the environment for client `name`, made anew when what it requires has changed."""
    requirements = HERE / "requirements" / f"{name}.txt"
    stamp = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"{name}-{stamp}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements],
            check=True,
        )
        (folder / "complete").touch()
    return python


@contextlib.contextmanager
def server(binary, log, *flags):
    """A server on a free port; gives its address once it is ready."""
    command = [binary, "serve", "--listen-ip", "127.0.0.1", "--port", "0", *flags]
    with open(log, "w", encoding="utf-8") as lines:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        try:
            for line in process.stderr:
                lines.write(line)
                if found := re.search(r"listening on \D*(\S+:\d+)", line):
                    break
            else:
                raise SystemExit(f"the server ended with {process.wait()}; see {log}")
            # The pipe must not fill: copy what comes later too.
            copier = subprocess.Popen(["cat"], stdin=process.stderr, stdout=lines)
            yield f"http://{found[1]}"
            if process.poll() is not None:
                raise SystemExit(f"the server died with {process.returncode}; see {log}")
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        copier.wait()


def check(client, python, arguments):
    """Runs the script of one client; returns how many of its checks passed and failed."""
    script = HERE / f"check_{client.replace('-', '_')}.py"
    print(f"-- {client}", flush=True)
    try:
        done = subprocess.run(
            [python, script, *arguments], stdout=subprocess.PIPE, text=True, encoding="utf-8", timeout=1200
        )
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode("utf-8", "replace") + "not done after 20 minutes\n"
    print(output, end="", flush=True)
    counted = re.search(r"^(\d+) passed, (\d+) failed$", output, re.MULTILINE)
    return (int(counted[1]), int(counted[2])) if counted else (0, 1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument(
        "--out", type=pathlib.Path, help="screenshots and server logs; by default a temporary folder"
    )
    parser.add_argument(
        "--only", nargs="+", choices=CLIENTS, default=CLIENTS, metavar="CLIENT", help=", ".join(CLIENTS)
    )
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    parser.add_argument("--cache", type=pathlib.Path, default=home / "funasr-candle" / "clients")
    arguments = parser.parse_args()
    binary = arguments.binary.resolve(strict=True)
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        out = (arguments.out or work / "out").resolve()
        out.mkdir(parents=True, exist_ok=True)
        pythons = {name: environment(name, arguments.cache) for name in {*arguments.only, "funasr-python"}}
        clips = sorted((ROOT / "tests" / "data" / "eval").glob("*.flac"))
        subprocess.run(
            [pythons["funasr-python"], HERE / "clips.py", "--binary", binary, "--folder", work, *clips],
            check=True,
        )
        # The texts to compare with are those that `transcribe` prints: numbers as they are spoken, whatever a client asks.
        url = stack.enter_context(server(binary, out / "server.log", "--itn-dir", "none"))
        (work / "keys").write_text(KEY + "\n")
        locked = stack.enter_context(server(binary, out / "locked.log", "--api-keys", work / "keys"))
        options = ["--url", url, "--locked-url", locked, "--clips", work / "expected.json", "--out", out]
        counts = [check(client, pythons[client], options) for client in arguments.only]
    passed, failed = (sum(column) for column in zip(*counts))
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()
