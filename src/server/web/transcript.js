// What was recognised: sentences by index, from live fragments and corrected texts, and the files made of it.

const CLOSES = /[，。？！、；,?!;]\s*$/u;
const MARK = /[\p{P}\s]/u;

export class Transcript {
  constructor(mode) {
    this.mode = mode;
    this.segments = [];
  }

  /** Takes one message; returns the segment it changed. */
  take(message) {
    const index = message.index ?? 0;
    const segment = (this.segments[index] ??= { index, text: '', live: true, words: [] });
    if (message.mode?.endsWith('online')) {
      segment.text += message.text;
    } else if (message.text || message.mode?.endsWith('offline')) {
      const words = wordsOf(message);
      Object.assign(segment, { text: message.text, live: false, words, pieces: pieces(message.text, words) });
      segment.start = message.start_time ?? words[0]?.start;
      segment.end = message.end_time ?? words.at(-1)?.end;
      segment.language = message.language;
      segment.emotion = message.emotion;
    }
    return segment;
  }

  get filled() {
    return this.segments.filter((segment) => segment?.text);
  }
  get text() {
    return this.filled.reduce((whole, { text }) => join(whole, text), '');
  }

  srt() {
    const cues = this.filled.flatMap((segment) => cuesOf(segment));
    return cues
      .map((cue, i) => `${i + 1}\n${clock(cue.start)} --> ${clock(cue.end)}\n${cue.text}\n`)
      .join('\n');
  }

  json() {
    const segments = this.filled.map(({ index, start, end, text, words, language, emotion }) => ({
      index,
      start_ms: start,
      end_ms: end,
      text,
      language,
      emotion,
      words: words.map(toMs),
    }));
    return JSON.stringify({ mode: this.mode, text: this.text, segments }, null, 2);
  }
}

const toMs = ({ text, start, end }) => ({ text, start_ms: start, end_ms: end });

function wordsOf({ stamp_sents: sentences }) {
  if (!Array.isArray(sentences)) return [];
  return sentences.flatMap(({ text_seg: seg, ts_list: times }) =>
    seg
      .split(' ')
      .filter(Boolean)
      .map((text, i) => ({ text, start: times[i]?.[0], end: times[i]?.[1] }))
      .filter(({ start }) => start !== undefined),
  );
}

/** Cuts `text` so that each word has the part that spells it, with the marks after it. */
function pieces(text, words) {
  const letters = [...text];
  let at = 0;
  const cut = words.map((word, i) => {
    const begin = at;
    for (let left = [...word.text].length; left > 0 && at < letters.length; at++)
      if (letters[at].trim()) left--;
    const next = [...(words[i + 1]?.text ?? '')][0];
    while (at < letters.length && letters[at] !== next && MARK.test(letters[at])) at++;
    return { text: letters.slice(begin, at).join(''), start: word.start, end: word.end };
  });
  if (cut.length) cut.at(-1).text += letters.slice(at).join('');
  return cut;
}

function cuesOf({ pieces: parts = [], text, start, end }) {
  if (!parts.length) return start === undefined ? [] : [{ text, start, end }];
  const cues = [];
  let open = null;
  for (const part of parts) {
    open ??= { text: '', start: part.start };
    open.text += part.text;
    open.end = Math.max(part.end, open.start + 1);
    if (CLOSES.test(part.text)) {
      cues.push(open);
      open = null;
    }
  }
  if (open) cues.push(open);
  return cues.map((cue) => ({ ...cue, text: cue.text.trim() }));
}

function join(left, right) {
  return left && /[\w.,?!]$/.test(left) && /^\w/.test(right) ? `${left} ${right}` : left + right;
}

function clock(ms) {
  const pad = (value, width) => String(Math.floor(value)).padStart(width, '0');
  return `${pad(ms / 3600000, 2)}:${pad((ms / 60000) % 60, 2)}:${pad((ms / 1000) % 60, 2)},${pad(ms % 1000, 3)}`;
}
