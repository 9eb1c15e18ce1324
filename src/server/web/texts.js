// Everything the page says, in its two languages.

const TEXTS = {
  en: {
    skip: 'Skip to the transcript',
    start: 'Start microphone',
    stop: 'Stop',
    choose: 'Choose a recording',
    drop: 'or drop it anywhere on this page',
    mode: 'Mode',
    mode2pass: 'Live, corrected',
    modeOnline: 'Live only',
    modeOffline: 'At the end',
    language: 'Language',
    auto: 'Automatic',
    model: 'Model',
    hotwords: 'Hotwords',
    hotwordsHelp: 'One a line, with a weight if you like: 阿里巴巴 20',
    itn: 'Write numbers as digits',
    more: 'More',
    key: 'API key, if the server asks for one',
    waveform: 'Waveform',
    play: 'Play',
    pause: 'Pause',
    zoomIn: 'Zoom in',
    zoomOut: 'Zoom out',
    waveformHelp: 'Waveform with speech segments and words; arrow keys move, plus and minus zoom',
    transcript: 'Transcript',
    copy: 'Copy',
    copied: 'Copied',
    hint: 'Speak, or choose a recording. Grey text is live; black text has been read again.',
    keys: 'Keys: M microphone, O open, Space play',
    idle: 'Ready',
    connecting: 'Connecting',
    listening: 'Listening',
    sending: 'Sending',
    waiting: 'Finishing',
    noMicrophone: 'The microphone needs a page served over https, or from localhost.',
    denied: 'The microphone cannot be used: ',
    lost: 'The connection to the server was lost.',
    refused: 'The server does not answer, or refuses the connection (is an API key needed?).',
    empty: 'Nothing was recognised.',
    unnamed: 'microphone',
  },
  zh: {
    skip: '跳到识别结果',
    start: '开始录音',
    stop: '停止',
    choose: '选择音频文件',
    drop: '或将文件拖到页面任意位置',
    mode: '模式',
    mode2pass: '实时并修正',
    modeOnline: '仅实时',
    modeOffline: '结束后识别',
    language: '语言',
    auto: '自动',
    model: '模型',
    hotwords: '热词',
    hotwordsHelp: '每行一个，可带权重：阿里巴巴 20',
    itn: '数字写成阿拉伯数字',
    more: '更多',
    key: 'API 密钥（服务器要求时填写）',
    waveform: '波形',
    play: '播放',
    pause: '暂停',
    zoomIn: '放大',
    zoomOut: '缩小',
    waveformHelp: '波形、语音段与词的时间；方向键移动，加减号缩放',
    transcript: '识别结果',
    copy: '复制',
    copied: '已复制',
    hint: '请说话，或选择一段录音。灰色为实时文字，黑色为修正后的文字。',
    keys: '快捷键：M 录音，O 打开文件，空格播放',
    idle: '就绪',
    connecting: '连接中',
    listening: '正在聆听',
    sending: '发送中',
    waiting: '即将完成',
    noMicrophone: '使用麦克风需要 https 页面，或从 localhost 打开。',
    denied: '无法使用麦克风：',
    lost: '与服务器的连接已断开。',
    refused: '服务器没有响应，或拒绝了连接（是否需要 API 密钥？）。',
    empty: '没有识别到内容。',
    unnamed: '麦克风',
  },
};

let locale = 'en';

export const text = (name) => TEXTS[locale][name];
export const currentLocale = () => locale;

/** Writes all marked elements in `chosen` (`en` or `zh`). */
export function translate(chosen) {
  locale = chosen in TEXTS ? chosen : 'en';
  document.documentElement.lang = locale;
  for (const element of document.querySelectorAll('[data-text]'))
    element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll('[data-label]')) {
    element.setAttribute('aria-label', text(element.dataset.label));
  }
}
