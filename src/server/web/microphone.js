// The microphone as a stream of 16-bit blocks.

/** Without the browser's own clean-up: the models know real rooms, and it distorts speech. */
const RAW = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };

export class Microphone {
  /** Opens it; `onBlock(Int16Array)` from then on. */
  static async open(onBlock) {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: RAW });
    const microphone = new Microphone();
    microphone.stream = stream;
    const [context, source] = contextFor(stream);
    microphone.context = context;
    await context.audioWorklet.addModule(new URL('recorder.js', import.meta.url));
    microphone.node = new AudioWorkletNode(context, 'recorder', { numberOfOutputs: 0 });
    microphone.node.port.onmessage = ({ data }) => (data ? onBlock(data) : microphone.drained?.());
    source.connect(microphone.node);
    await context.resume();
    return microphone;
  }

  get sampleRate() {
    return this.context.sampleRate;
  }

  /** Closes it, after the last block was given. */
  async close() {
    const drained = new Promise((done) => {
      this.drained = done;
    });
    this.node.port.postMessage('flush');
    await Promise.race([drained, new Promise((late) => setTimeout(late, 500))]);
    for (const track of this.stream.getTracks()) track.stop();
    await this.context.close();
  }
}

/** At 16 kHz if the browser resamples microphones, else at their own rate: the server takes any. */
function contextFor(stream) {
  const context = new AudioContext({ sampleRate: 16000 });
  try {
    return [context, context.createMediaStreamSource(stream)];
  } catch {
    context.close();
    const own = new AudioContext();
    return [own, own.createMediaStreamSource(stream)];
  }
}
