// The page: settings in, audio in, transcript out.

import { Connection } from './connection.js';
import { Microphone } from './microphone.js';
import { currentLocale, text, translate } from './texts.js';
import { Transcript } from './transcript.js';
import { shortTime, Waveform } from './waveform.js';

/** Chunks of the streaming model that FunASR's clients ask for, in units of 60 ms. */
const CHUNK_SIZE = [5, 10, 5];
/** Audio of the microphone that is kept for playing back. */
const KEPT_MS = 3600000;

const $ = (id) => document.getElementById(id);
const settings = $('settings');
const waveform = new Waveform($('waveform'));
const audio = $('audio');
let transcript = new Transcript('2pass');
let connection = null;
let microphone = null;
let recorded = [];
let name = '';

// -- settings

/** The first message of a session. */
function config(audioFields) {
  const fields = new FormData(settings);
  const itn = fields.has('itn');
  const model = fields.get('model');
  return {
    mode: fields.get('mode'),
    chunk_size: CHUNK_SIZE,
    wav_name: name,
    itn,
    svs_itn: itn,
    svs_lang: fields.get('language'),
    hotwords: hotwords(fields.get('hotwords')),
    ...(model ? { model } : {}),
    ...audioFields,
  };
}

/** FunASR's form: a JSON text of word -> weight. */
function hotwords(lines) {
  const entries = lines
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean)
    .map((line) => {
      const [, word, weight] = line.match(/^(.*?)(?:\s+(-?\d+))?$/);
      return [word, Number(weight ?? 20)];
    });
  return entries.length ? JSON.stringify(Object.fromEntries(entries)) : '';
}

async function listModels() {
  const key = settings.key.value;
  const select = settings.model;
  const chosen = select.value;
  let models = [];
  try {
    const headers = key ? { authorization: `Bearer ${key}` } : {};
    const reply = await fetch(new URL('v1/models', location.href), { headers });
    if (reply.ok) models = (await reply.json()).data;
  } catch {
    /* The page is of use without the list. */
  }
  select.replaceChildren(
    ...(models.length ? models.map(({ id }) => new Option(id, id)) : [new Option('–', '')]),
  );
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

/** What was chosen stays for the next visit; the key only for this one. */
function remember() {
  const kept = Object.fromEntries(new FormData(settings));
  sessionStorage.setItem('key', kept.key);
  delete kept.key;
  kept.itn = settings.itn.checked;
  localStorage.setItem('settings', JSON.stringify(kept));
}

function recall() {
  const kept = JSON.parse(localStorage.getItem('settings') ?? '{}');
  for (const field of ['mode', 'language', 'hotwords'])
    if (kept[field]) settings.elements[field].value = kept[field];
  settings.itn.checked = kept.itn ?? true;
  settings.key.value = sessionStorage.getItem('key') ?? '';
}

// -- one session

/** Ends what goes on and clears the page for the session called `title`. */
async function begin(title) {
  const before = connection;
  connection = null;
  before?.end('');
  await stopMicrophone();
  name = title;
  recorded = [];
  transcript = new Transcript(settings.elements.mode.value);
  audio.removeAttribute('src');
  fail('');
  waveform.clear();
  $('transcript').replaceChildren();
  refresh();
}

function connect(audioFields) {
  setState('connecting');
  const own = new Connection(config(audioFields), settings.key.value, onMessage, (problem) => {
    if (own === connection) onEnd(problem);
  });
  connection = own;
  return own;
}

function onMessage(message) {
  if (message.error) fail(message.error.message ?? message.error);
  const before = transcript.filled.length;
  const segment = transcript.take(message);
  if (segment.text || before !== transcript.filled.length) render(segment);
  waveform.show(transcript.filled);
  refresh();
}

async function onEnd(problem) {
  if (problem) fail(text(problem));
  else if (!transcript.text && $('error').hidden) fail(text('empty'));
  await stopMicrophone();
  waveform.live = false;
  waveform.draw();
  setState('idle');
  refresh();
}

async function startMicrophone() {
  if (!navigator.mediaDevices) return fail(text('noMicrophone'));
  await begin(text('unnamed'));
  setState('connecting');
  try {
    microphone = await Microphone.open(onBlock);
  } catch (error) {
    setState('idle');
    return fail(text('denied') + error.message);
  }
  waveform.live = true;
  const own = connect({ wav_format: 'pcm', audio_fs: microphone.sampleRate });
  if (!(await own.opened)) return undefined; // onEnd has said why.
  for (const block of recorded) own.push(block);
  own.ready = true;
  return setState('listening');
}

/** Blocks that come before the connection is there are sent with it. */
function onBlock(block) {
  waveform.push(block, microphone?.sampleRate ?? 16000);
  $('clock').value = shortTime(waveform.duration);
  if (waveform.duration < KEPT_MS) recorded.push(block);
  if (connection?.ready) connection.push(block);
}

/** Ends the recording; the last words come after it. */
async function finish() {
  setState('waiting');
  const ending = connection;
  await stopMicrophone();
  ending?.finish();
}

async function stopMicrophone() {
  const open = microphone;
  microphone = null;
  if (!open) return;
  const rate = open.sampleRate;
  await open.close();
  audio.src = URL.createObjectURL(wav(recorded, rate));
}

async function sendFile(file) {
  await begin(file.name);
  audio.src = URL.createObjectURL(file);
  const bytes = await file.arrayBuffer();
  const samples = await decode(bytes);
  if (samples) waveform.push(samples, 16000);
  $('clock').value = shortTime(waveform.duration);
  // At the end the server decodes the file itself; live it hears samples, if the browser can decode them.
  const live = samples && settings.elements.mode.value !== 'offline';
  const format = file.name.split('.').pop().toLowerCase();
  const own = connect({ wav_format: live ? 'pcm' : format, audio_fs: 16000 });
  if (!(await own.opened)) return; // onEnd has said why.
  setState('sending');
  await own.sendAll(live ? pcm(samples).buffer : bytes);
  if (own.ended) return;
  setState('waiting');
  own.finish();
}

/** Mono samples at 16 kHz, or nothing if the browser does not know the format. */
async function decode(bytes) {
  try {
    const decoded = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes.slice(0));
    const channels = Array.from({ length: decoded.numberOfChannels }, (_, i) => decoded.getChannelData(i));
    return channels[0].map(
      (_, at) => channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length,
    );
  } catch {
    return null;
  }
}

const pcm = (samples) =>
  Int16Array.from(samples, (s) => Math.max(-32768, Math.min(32767, Math.round(s * 32768))));

function wav(blocks, rate) {
  const bytes = blocks.reduce((sum, block) => sum + block.byteLength, 0);
  const header = new DataView(new ArrayBuffer(44));
  const word = (at, letters) =>
    [...letters].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  word(0, 'RIFF');
  header.setUint32(4, 36 + bytes, true);
  word(8, 'WAVEfmt ');
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, rate * 2, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  word(36, 'data');
  header.setUint32(40, bytes, true);
  return new Blob([header, ...blocks], { type: 'audio/wav' });
}

// -- what is shown

function setState(state) {
  $('status').dataset.state = state;
  $('status-text').textContent = text(state);
  const listening = state === 'listening';
  $('microphone').setAttribute('aria-pressed', listening);
  $('microphone-text').textContent = text(listening ? 'stop' : 'start');
  $('microphone').disabled = !['idle', 'listening'].includes(state);
  $('transcript').setAttribute('aria-busy', state !== 'idle');
}

function fail(problem) {
  $('error').textContent = problem;
  $('error').hidden = !problem;
}

function refresh() {
  const some = transcript.filled.length > 0;
  for (const button of document.querySelectorAll('[data-download]')) button.disabled = !some;
  $('copy').disabled = !some;
  $('play').disabled = !audio.src;
}

function render(segment) {
  const list = $('transcript');
  let line = list.querySelector(`[data-index="${segment.index}"]`);
  if (!line) {
    line = document.createElement('p');
    line.dataset.index = segment.index;
    line.append(document.createElement('button'), document.createElement('span'));
    line.firstChild.className = 'time';
    line.firstChild.type = 'button';
    const after = [...list.children].find((other) => Number(other.dataset.index) > segment.index);
    list.insertBefore(line, after ?? null);
  }
  const [time, body] = line.children;
  const start = segment.start;
  time.textContent = start === undefined ? '' : shortTime(start);
  time.disabled = start === undefined;
  time.onclick = () => seek(start);
  body.className = segment.live ? 'live' : '';
  body.replaceChildren(...(segment.pieces?.length ? segment.pieces.map(wordElement) : [segment.text]));
}

function wordElement({ text: spelt, start, end }) {
  const word = document.createElement('span');
  word.className = 'word';
  word.textContent = spelt;
  word.title = `${shortTime(start)} – ${shortTime(end)}`;
  Object.assign(word.dataset, { start, end });
  word.onclick = () => seek(start);
  return word;
}

// -- playing back

function seek(ms) {
  if (!audio.src) return;
  audio.currentTime = ms / 1000;
  audio.play();
}

function toggle() {
  if (!audio.src) return;
  if (audio.paused) audio.play();
  else audio.pause();
}

function follow() {
  const ms = audio.currentTime * 1000;
  waveform.playing(ms);
  for (const word of document.querySelectorAll('.word')) {
    word.classList.toggle(
      'now',
      !audio.paused && ms >= Number(word.dataset.start) && ms < Number(word.dataset.end),
    );
  }
  if (!audio.paused) requestAnimationFrame(follow);
}

function download(kind) {
  const content = {
    txt: () => `${transcript.text}\n`,
    srt: () => transcript.srt(),
    json: () => transcript.json(),
  }[kind]();
  const link = document.createElement('a');
  link.href = URL.createObjectURL(
    new Blob([content], { type: `${kind === 'json' ? 'application/json' : 'text/plain'};charset=utf-8` }),
  );
  link.download = `${name.replace(/\.[^.]*$/, '') || 'transcript'}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function copy() {
  await navigator.clipboard.writeText(transcript.text);
  $('copy').textContent = text('copied');
  setTimeout(() => {
    $('copy').textContent = text('copy');
  }, 1200);
}

// -- wiring

function setLocale(locale) {
  translate(locale);
  $('locale').textContent = currentLocale() === 'en' ? '中文' : 'English';
  $('locale').lang = currentLocale() === 'en' ? 'zh' : 'en';
  localStorage.setItem('locale', currentLocale());
  setState($('status').dataset.state);
}

const listening = () => $('status').dataset.state === 'listening';

$('microphone').onclick = () => (listening() ? finish() : startMicrophone());
$('file').onchange = ({ target }) => {
  if (target.files[0]) sendFile(target.files[0]);
  target.value = '';
};
$('locale').onclick = () => setLocale(currentLocale() === 'en' ? 'zh' : 'en');
$('play').onclick = toggle;
$('copy').onclick = copy;
$('zoom-in').onclick = () => waveform.zoom(0.5);
$('zoom-out').onclick = () => waveform.zoom(2);
for (const button of document.querySelectorAll('[data-download]'))
  button.onclick = () => download(button.dataset.download);
waveform.onSeek = seek;
audio.onplay = () => {
  $('play').textContent = text('pause');
  follow();
};
audio.onpause = () => {
  $('play').textContent = text('play');
  follow();
};
settings.onsubmit = (event) => event.preventDefault();
settings.onchange = (event) => {
  remember();
  if (event.target === settings.key) listModels();
};

document.ondragover = (event) => {
  event.preventDefault();
  $('drop').classList.add('over');
};
document.ondragleave = () => $('drop').classList.remove('over');
document.ondrop = (event) => {
  event.preventDefault();
  $('drop').classList.remove('over');
  if (event.dataTransfer.files[0]) sendFile(event.dataTransfer.files[0]);
};
document.onkeydown = (event) => {
  if (
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    event.target.matches('input, textarea, select, button, summary, a')
  )
    return;
  const act = { m: () => $('microphone').click(), o: () => $('file').click(), ' ': toggle }[
    event.key.toLowerCase()
  ];
  if (!act) return;
  event.preventDefault();
  act();
};

recall();
setLocale(localStorage.getItem('locale') ?? (navigator.language.startsWith('zh') ? 'zh' : 'en'));
refresh();
listModels();
