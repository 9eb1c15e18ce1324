"""PyPI `funasr-python`: its asynchronous client, and the synchronous one, which gives final results alone."""

from checks import Checks, equal
from funasr_client import AsyncFunASRClient, FunASRClient, RecognitionMode
from funasr_client.callbacks import SimpleCallback

checks = Checks()


async def recognised(clip, mode, text):
    partials = []
    client = AsyncFunASRClient(checks.ws_url, mode=mode, timeout=60)
    try:
        result = await client.recognize_file(clip["wav"], SimpleCallback(on_partial=partials.append))
    finally:
        await client.close()
    equal(result.text, text)
    if mode == RecognitionMode.TWO_PASS:
        assert partials, "no partial result"


def synchronous(clip):
    client = FunASRClient(checks.ws_url, mode=RecognitionMode.OFFLINE, timeout=60)
    equal(client.recognize_file(clip["wav"]).text, clip["text"])


for name in ("short_00_demo", "short_04", "short_08"):
    clip = checks.clip(name)
    checks.run(f"offline {name}", recognised, clip, RecognitionMode.OFFLINE, clip["text"])
    checks.run(f"2pass {name}", recognised, clip, RecognitionMode.TWO_PASS, clip["two_pass"])
checks.run("synchronous", synchronous, checks.clip("short_04"))
checks.finish()
