"""PyPI `funasr-client`, its asynchronous interface (its synchronous one waits for a lock it holds)."""

from checks import Checks, equal
from funasr_client import async_file_asr, async_file_asr_stream

checks = Checks()


async def corrected(clip):
    """2pass: the corrected sentences together are the CLI's text, with times for every word."""
    merged = await async_file_asr(clip["wav"], checks.ws_url, mode="2pass", hotwords={"你好": 20}, itn=False)
    equal(merged["text"], clip["two_pass"])
    equal([list(pair) for pair in merged["timestamp"]], clip["two_pass_times"], "timestamp")


async def partials_first(clip):
    modes = [m["mode"] async for m in async_file_asr_stream(clip["wav"], checks.ws_url, mode="2pass")]
    assert "2pass-online" in modes and modes[-1] == "2pass-offline", modes
    assert modes.index("2pass-online") < modes.index("2pass-offline"), modes


async def offline(clip, kind):
    replies = [m async for m in async_file_asr_stream(clip[kind], checks.ws_url, mode="offline")]
    equal([m["text"] for m in replies], [clip["text"]])
    equal([m["is_final"] for m in replies], [True])
    equal([list(pair) for pair in replies[0]["timestamp"]], clip["times"], "timestamp")


async def online(clip):
    replies = [m async for m in async_file_asr_stream(clip["wav"], checks.ws_url, mode="online")]
    equal("".join(m["text"] for m in replies), clip["online"])


for name in ("short_04", "short_08", "long_01"):
    checks.run(f"2pass {name}", corrected, checks.clip(name))
for name, clip in checks.clips.items():
    checks.run(f"offline wav {name}", offline, clip, "wav")
checks.run("offline flac", offline, checks.clip("short_04"), "flac")
checks.run("partials come before the correction", partials_first, checks.clip("short_08"))
checks.run("online", online, checks.clip("short_07"))
checks.finish()
