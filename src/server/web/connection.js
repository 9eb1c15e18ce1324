// One utterance over FunASR's websocket protocol: settings, audio, the end; then messages until the final one.

/** Bytes that may wait to be sent before audio of a file waits too. */
const HIGH_WATER = 1 << 19;
const FRAME_BYTES = 1 << 15;

export class Connection {
  /** `settings`: the first message. `onMessage(json)` for each reply, `onEnd(problem)` once: '' or a key of texts.js. */
  constructor(settings, key, onMessage, onEnd) {
    const url = new URL('.', location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    url.search = key ? new URLSearchParams({ api_key: key }) : '';
    this.socket = new WebSocket(url, 'binary');
    this.socket.binaryType = 'arraybuffer';
    this.onEnd = onEnd;
    /** Whether the server took the connection. */
    this.opened = new Promise((tell) => {
      this.socket.onopen = () => {
        this.tell({ ...settings, is_speaking: true });
        this.wasOpen = true;
        tell(true);
      };
      this.socket.onclose = () => {
        this.end(this.wasOpen ? 'lost' : 'refused');
        tell(false);
      };
    });
    this.socket.onmessage = ({ data }) => {
      if (this.ended) return;
      const message = JSON.parse(data);
      onMessage(message);
      if (message.is_final) this.end('');
    };
  }

  tell(message) {
    this.socket.send(JSON.stringify(message));
  }

  /** Live audio; what the network cannot take is the socket's to hold. */
  push(bytes) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(bytes);
  }

  /** A whole recording, no faster than the server reads. */
  async sendAll(buffer) {
    for (let at = 0; at < buffer.byteLength && !this.ended; at += FRAME_BYTES) {
      while (this.socket.bufferedAmount > HIGH_WATER && !this.ended)
        await new Promise((go) => setTimeout(go, 20));
      this.push(buffer.slice(at, at + FRAME_BYTES));
    }
  }

  finish() {
    if (this.socket.readyState === WebSocket.OPEN) this.tell({ is_speaking: false });
  }

  end(problem) {
    if (this.ended) return;
    this.ended = true;
    this.socket.close();
    this.onEnd(problem);
  }
}
