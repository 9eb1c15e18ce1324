"""gRPC: `paraformer.ASR.Recognize` with stubs made from the proto text, reflection and health."""

import pathlib
import sys
import tempfile
import wave

import grpc
from checks import Checks, equal
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

checks = Checks()
proto = pathlib.Path(__file__).parents[2] / "proto"
with tempfile.TemporaryDirectory() as folder:
    protoc.main(
        ["protoc", f"-I{proto}", f"--python_out={folder}", f"--grpc_python_out={folder}", "paraformer.proto"]
    )
    sys.path.insert(0, folder)
    import paraformer_pb2
    import paraformer_pb2_grpc

address = checks.url.removeprefix("http://")
channel = grpc.insecure_channel(address)
stub = paraformer_pb2_grpc.ASRStub(channel)


def requests(clip, mode, final):
    with wave.open(clip["wav"]) as file:
        audio = file.readframes(file.getnframes())
    config = dict(mode=mode, wav_format=0, sampling_rate=16000, chunk_size=[5, 10, 5])
    steps = [audio[at : at + 3200] for at in range(0, len(audio), 3200)]
    for i, step in enumerate(steps):
        yield paraformer_pb2.Request(
            audio_data=step, is_final=final and i + 1 == len(steps), **(config if i == 0 else {})
        )


def recognise(clip, mode, final=True):
    replies = list(stub.Recognize(requests(clip, mode, final), timeout=60))
    corrected = "".join(r.text for r in replies if r.mode == paraformer_pb2.two_pass)
    streamed = "".join(r.text for r in replies if r.mode == paraformer_pb2.online)
    return corrected, streamed, replies


def two_pass(clip, final):
    corrected, streamed, replies = recognise(clip, paraformer_pb2.two_pass, final)
    equal(corrected, clip["two_pass"])
    assert streamed, replies
    assert all(reply.text for reply in replies), replies


def offline(clip):
    corrected, streamed, _ = recognise(clip, paraformer_pb2.offline)
    equal((corrected, streamed), (clip["two_pass"], ""))


def online(clip):
    corrected, streamed, _ = recognise(clip, paraformer_pb2.online)
    equal(corrected, "")
    assert streamed


def empty():
    equal(list(stub.Recognize(iter([]), timeout=30)), [])


def health():
    reply = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service="paraformer.ASR"), timeout=10
    )
    equal(reply.status, health_pb2.HealthCheckResponse.SERVING)


def reflection():
    """Lists the services, and describes ours as the text does."""
    database = ProtoReflectionDescriptorDatabase(channel)
    services = list(database.get_services())
    assert "paraformer.ASR" in services, services
    described = database.FindFileContainingSymbol("paraformer.ASR")
    written = descriptor_pb2.FileDescriptorProto.FromString(paraformer_pb2.DESCRIPTOR.serialized_pb)
    # Names in JSON follow from the names; Python's compiler leaves them out.
    for file in (described, written):
        for field in (field for message in file.message_type for field in message.field):
            field.ClearField("json_name")
    equal(described, written)


clip = checks.clip("short_08")
checks.run("two_pass, is_final", two_pass, clip, True)
checks.run("two_pass, half-close", two_pass, clip, False)
checks.run("two_pass, several sentences", two_pass, checks.clip("long_01"), True)
checks.run("offline", offline, clip)
checks.run("online", online, clip)
checks.run("nothing sent", empty)
checks.run("health", health)
checks.run("reflection", reflection)
checks.finish()
