"""The `openai` SDK: transcriptions in every format, models, errors, real-time transcription."""

import base64

import openai
from checks import Checks, equal

checks = Checks()
client = openai.OpenAI(base_url=f"{checks.url}/v1", api_key="none", max_retries=0, timeout=60)


def transcribe(clip, kind="flac", **options):
    with open(clip[kind], "rb") as file:
        return client.audio.transcriptions.create(
            file=file, model=options.pop("model", "whisper-1"), **options
        )


def plain(clip, kind):
    equal(transcribe(clip, kind).text, clip["text"])


def text(clip):
    equal(transcribe(clip, response_format="text").strip(), clip["text"])


def subtitles(clip, kind):
    equal(transcribe(clip, response_format=kind), clip[kind])


def verbose(clip):
    found = transcribe(clip, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    equal(found.text, clip["text"])
    equal(round(found.duration * 1000), clip["duration_ms"], "duration")
    equal([[round(w.start * 1000), round(w.end * 1000)] for w in found.words], clip["times"], "words")
    equal("".join(s.text for s in found.segments).replace(" ", ""), clip["text"].replace(" ", ""), "segments")
    for segment in found.segments:
        assert 0 <= segment.start <= segment.end <= found.duration, segment


def only_segments(clip):
    found = transcribe(clip, response_format="verbose_json")
    assert found.segments and found.words is None, found


def stream(clip):
    events = list(transcribe(clip, stream=True))
    equal([e.type for e in events[:-1]], ["transcript.text.delta"] * (len(events) - 1))
    equal(events[-1].type, "transcript.text.done")
    equal(events[-1].text, clip["text"])
    equal("".join(e.delta for e in events[:-1]), clip["text"], "deltas")


def options(clip):
    """Fields that other engines know are taken; hotwords come as the prompt."""
    found = transcribe(
        clip,
        language="zh",
        prompt="你好, 赵磊",
        temperature=0.0,
        include=["logprobs"],
        chunking_strategy="auto",
    )
    equal(found.text, clip["text"])


def models():
    names = [model.id for model in client.models.list()]
    assert names, "no model"
    equal(client.models.retrieve(names[0]).id, names[0])
    equal(transcribe(checks.clip("short_04"), model=names[0]).text, checks.clip("short_04")["text"])


def refused(kind, call):
    try:
        call()
    except kind as error:
        assert error.body and error.body["message"], error.body
        return
    raise AssertionError(f"no {kind.__name__}")


def locked(key):
    return openai.OpenAI(base_url=f"{checks.args.locked_url}/v1", api_key=key, max_retries=0)


async def realtime(clip, detection):
    """Appends the clip at 24 kHz; with detection sentences complete by themselves, else at the commit."""
    other = openai.AsyncOpenAI(base_url=f"{checks.url}/v1", api_key="none")
    completed, kinds = [], []
    async with other.realtime.connect(
        model=None or "", extra_query={"intent": "transcription"}
    ) as connection:
        await connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "transcription": {"model": "whisper-1", "language": "zh"},
                        "turn_detection": {"type": "server_vad"} if detection else None,
                    }
                },
            }
        )
        with open(clip["pcm24"], "rb") as file:
            audio = file.read() + bytes(48000 if detection else 0) * 2
        for at in range(0, len(audio), 9600):
            await connection.input_audio_buffer.append(audio=base64.b64encode(audio[at : at + 9600]).decode())
        if not detection:
            await connection.input_audio_buffer.commit()
        async for event in connection:
            kinds.append(event.type)
            assert event.type != "error", event
            if event.type == "conversation.item.input_audio_transcription.completed":
                completed.append(event.transcript)
                break
    equal(completed, [clip["two_pass"]], kinds)
    for kind in (
        "session.created",
        "session.updated",
        "input_audio_buffer.committed",
        "conversation.item.input_audio_transcription.delta",
    ):
        assert kind in kinds, (kind, kinds)
    assert ("input_audio_buffer.speech_started" in kinds) == detection, kinds


for name, clip in checks.clips.items():
    checks.run(f"json {name}", plain, clip, "flac")
checks.run("json wav", plain, checks.clip("short_00_demo"), "wav")
for name in ("short_04", "long_01"):
    clip = checks.clip(name)
    checks.run(f"text {name}", text, clip)
    checks.run(f"srt {name}", subtitles, clip, "srt")
    checks.run(f"vtt {name}", subtitles, clip, "vtt")
    checks.run(f"verbose_json {name}", verbose, clip)
    checks.run(f"stream {name}", stream, clip)
checks.run("verbose_json without words", only_segments, checks.clip("short_04"))
checks.run("options", options, checks.clip("short_04"))
checks.run("models", models)
checks.run(
    "unknown model",
    refused,
    openai.NotFoundError,
    lambda: transcribe(checks.clip("short_04"), model="no-such"),
)
checks.run(
    "not audio",
    refused,
    openai.BadRequestError,
    lambda: client.audio.transcriptions.create(file=("a.wav", b"no audio at all"), model="whisper-1"),
)
checks.run(
    "unknown format",
    refused,
    openai.BadRequestError,
    lambda: transcribe(checks.clip("short_04"), response_format="docx"),
)
checks.run("wrong key", refused, openai.AuthenticationError, lambda: locked("wrong").models.list())
checks.run("right key", lambda: locked("sesame").models.list())
checks.run("realtime with server VAD", realtime, checks.clip("short_08"), True)
checks.run("realtime with commit", realtime, checks.clip("short_08"), False)
checks.finish()
