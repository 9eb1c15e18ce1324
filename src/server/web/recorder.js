// Runs in the audio thread: mono blocks of 60 ms as 16-bit samples.

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(Math.round(sampleRate * 0.06));
    this.filled = 0;
    this.port.onmessage = () => {
      this.flush();
      this.port.postMessage(null);
    };
  }

  process([channels]) {
    const [samples = []] = channels;
    for (const sample of samples) {
      this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.block.length) this.flush();
    }
    return true;
  }

  flush() {
    if (this.filled) this.port.postMessage(this.block.slice(0, this.filled));
    this.filled = 0;
  }
}

registerProcessor('recorder', Recorder);
