// A canvas with loudness over time, speech segments behind it and words below it.

/** One peak for each 10 ms. */
const PEAK_MS = 10;
const LIVE_MS = 20000;
const MIN_MS = 1000;

export class Waveform {
  constructor(canvas) {
    this.canvas = canvas;
    this.onSeek = () => {};
    canvas.addEventListener('click', (event) => this.onSeek(this.timeAt(event.offsetX)));
    canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    canvas.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
    this.clear();
  }

  clear() {
    Object.assign(this, { peaks: [], rest: 0, restCount: 0, segments: [], cursor: null, view: null });
    this.draw();
  }

  get duration() {
    return this.peaks.length * PEAK_MS;
  }

  /** Appends samples, 16-bit or in [-1, 1]. */
  push(samples, sampleRate) {
    const scale = samples instanceof Int16Array ? 1 / 32768 : 1;
    const width = Math.round((sampleRate * PEAK_MS) / 1000);
    for (const sample of samples) {
      this.rest = Math.max(this.rest, Math.abs(sample) * scale);
      if (++this.restCount === width) {
        this.peaks.push(this.rest);
        this.rest = this.restCount = 0;
      }
    }
    this.draw();
  }

  show(segments) {
    this.segments = segments;
    this.draw();
  }
  playing(ms) {
    this.cursor = ms;
    this.draw();
  }

  /** The shown stretch: chosen by the user, else the last seconds while live, else everything. */
  range() {
    if (this.view) return this.view;
    const end = Math.max(this.duration, MIN_MS);
    return this.live ? [Math.max(0, end - LIVE_MS), Math.max(end, LIVE_MS)] : [0, end];
  }

  timeAt(x) {
    const [from, to] = this.range();
    return from + (x / this.canvas.clientWidth) * (to - from);
  }

  zoom(factor, around = this.canvas.clientWidth / 2) {
    const [from, to] = this.range();
    const whole = Math.max(this.duration, MIN_MS);
    const width = Math.min(whole, Math.max(MIN_MS, (to - from) * factor));
    const start = this.timeAt(around) - (around / this.canvas.clientWidth) * width;
    this.place(start, width);
  }

  pan(share) {
    const [from, to] = this.range();
    this.place(from + share * (to - from), to - from);
  }

  place(start, width) {
    const begin = Math.max(0, Math.min(start, this.duration - width));
    this.view = width >= this.duration ? null : [begin, begin + width];
    this.draw();
  }

  wheel(event) {
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))
      this.pan(Math.sign(event.deltaX + event.deltaY) / 10);
    else this.zoom(event.deltaY > 0 ? 1.25 : 0.8, event.offsetX);
  }

  key(event) {
    const act = {
      ArrowLeft: () => this.pan(-0.2),
      ArrowRight: () => this.pan(0.2),
      '+': () => this.zoom(0.5),
      '=': () => this.zoom(0.5),
      '-': () => this.zoom(2),
      Home: () => this.pan(-1e6),
      End: () => this.pan(1e6),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.paint();
    });
  }

  paint() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== width * ratio || canvas.height !== height * ratio) {
      [canvas.width, canvas.height] = [width * ratio, height * ratio];
    }
    const ink = canvas.getContext('2d');
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    ink.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    const [from, to] = this.range();
    const frame = {
      ink,
      colour,
      width,
      from,
      to,
      top: 4,
      bottom: height - 40,
      x: (ms) => ((ms - from) / (to - from)) * width,
    };
    this.paintSegments(frame);
    this.paintPeaks(frame);
    this.paintWords(frame);
    this.paintTimes(frame, height);
    if (this.cursor !== null) {
      ink.fillStyle = colour('alarm');
      ink.fillRect(frame.x(this.cursor), frame.top, 1.5, frame.bottom - frame.top);
    }
  }

  paintSegments({ ink, colour, x, top, bottom }) {
    ink.fillStyle = colour('wash');
    for (const { start, end } of this.segments) {
      if (start !== undefined) ink.fillRect(x(start), top, Math.max(1, x(end) - x(start)), bottom - top);
    }
  }

  paintPeaks({ ink, colour, width, from, to, top, bottom }) {
    const middle = (top + bottom) / 2;
    ink.fillStyle = colour('accent');
    for (let column = 0; column < width; column += 2) {
      const begin = Math.floor((from + (column / width) * (to - from)) / PEAK_MS);
      const end = Math.max(begin + 1, Math.floor((from + ((column + 2) / width) * (to - from)) / PEAK_MS));
      let peak = 0;
      for (let i = begin; i < end && i < this.peaks.length; i++) peak = Math.max(peak, this.peaks[i]);
      const tall = begin < this.peaks.length ? Math.max(1, Math.sqrt(peak) * (bottom - top) * 0.95) : 0;
      ink.fillRect(column, middle - tall / 2, 1.4, tall);
    }
  }

  /** Starts of words as ticks, and the words where there is room. */
  paintWords({ ink, colour, from, to, x, bottom }) {
    ink.font = '13px system-ui, "Noto Sans CJK SC", sans-serif';
    ink.textBaseline = 'top';
    let free = -Infinity;
    for (const { words = [] } of this.segments) {
      for (const { text, start, end } of words) {
        if (end < from || start > to) continue;
        ink.fillStyle = colour('accent');
        ink.fillRect(x(start), bottom + 1, 1, 5);
        const left = x(start) + 2;
        if (left < free) continue;
        ink.fillStyle = colour('ink');
        ink.fillText(text, left, bottom + 6);
        free = left + ink.measureText(text).width + 4;
      }
    }
  }

  paintTimes({ ink, colour, from, to, width, x }, height) {
    const step =
      [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600]
        .map((s) => s * 1000)
        .find((ms) => (ms / (to - from)) * width >= 70) ?? 7200000;
    ink.fillStyle = colour('soft');
    ink.font = '11px system-ui, sans-serif';
    ink.textBaseline = 'bottom';
    for (let ms = Math.ceil(from / step) * step; ms < to; ms += step)
      ink.fillText(shortTime(ms), x(ms) + 2, height - 2);
  }
}

/** `1:05.3` */
export function shortTime(ms) {
  const tenths = Math.floor(ms / 100);
  return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, '0')}.${tenths % 10}`;
}
