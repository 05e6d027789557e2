// SPDX-FileCopyrightText: Voicefleet contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// What the page says. Where the page itself has the English words (data-say), only the others stand here.

const SAYINGS = {
  en: {
    prompt: "The rain has stopped, and the street is quiet again this evening.",
    example: "Hello! This is how I sound, and I am glad that you can hear me.",
    not_here: "not with the engine {engine}",
    loading_voices: "Asking for the voices…",
    ready: "Ready.",
    speaking: "Speaking…",
    busy: "Busy, trying again in {seconds} s.",
    cancelled: "Cancelled.",
    done: "Spoken. First audio after {seconds} s.",
    cut: "The audio was cut off; what came is here.",
    silent: "There was no audio in the answer.",
    no_answer: "The server cannot be reached. Is this device online?",
    strange: "The server answered {status}.",
    need_recording: "Record a voice, or take a file with one, first.",
    stop: "Stop, {seconds} s",
    recording: "Recording. Speak now.",
    recorded: "Recorded {seconds} s.",
    recorded_short: "Recorded {seconds} s. 3 s and more sound better.",
    taken: "Taken: {name}.",
    insecure: "Browsers give the microphone only to pages over HTTPS, or from this device itself. A file can be taken here.",
    no_microphone: "There is no microphone.",
    microphone_refused: "The browser did not give the microphone: {reason}",
    play: "Play",
    pause: "Pause",
    position: "Position",
    position_of: "{position} of {seconds} s",
    seconds: "{seconds} s",
  },
  zh: {
    title: "试听声音",
    who: "由谁朗读",
    listed: "从列表选择",
    listed_hint: "这里现有的声音",
    own: "你的录音",
    own_hint: "3 秒就够",
    voice: "声音",
    read_this: "请朗读下面这句，或说一句自己的话：",
    record: "录音",
    upload: "选择文件",
    your_recording: "你的录音",
    transcript: "录音里说的话（逐字）",
    transcript_hint: "若要朗读的文本是另一种语言，请留空。",
    privacy: "录音只留在此浏览器中，随每次请求发送，服务器不保存。",
    text: "文本",
    text_hint: "Ctrl + Enter 朗读，Esc 取消。",
    how: "朗读方式",
    speed: "语速",
    instructions: "指令",
    instructions_hint: "例如：请用开心的语气慢慢说。",
    speak: "朗读",
    cancel: "取消",
    answer: "结果",
    speech: "语音",
    first_audio: "首包延迟",
    all_after: "总耗时",
    length: "时长",
    replica: "由此副本朗读",
    download: "下载",
    api: "API 说明",
    prompt: "雨已经停了，今晚的街道又安静了下来。",
    example: "你好！这就是我的声音，很高兴你能听到。",
    not_here: "引擎 {engine} 不支持",
    loading_voices: "正在获取声音列表…",
    ready: "就绪。",
    speaking: "正在朗读…",
    busy: "繁忙，{seconds} 秒后重试。",
    cancelled: "已取消。",
    done: "朗读完毕，{seconds} 秒后开始出声。",
    cut: "音频中断，已收到的部分在此。",
    silent: "返回的结果中没有音频。",
    no_answer: "无法连接服务器，请检查网络。",
    strange: "服务器返回 {status}。",
    need_recording: "请先录音，或选择一个录音文件。",
    stop: "停止，{seconds} 秒",
    recording: "正在录音，请说话。",
    recorded: "已录 {seconds} 秒。",
    recorded_short: "已录 {seconds} 秒。3 秒以上效果更好。",
    taken: "已选择：{name}。",
    insecure: "浏览器只允许 HTTPS 页面或本机页面使用麦克风；此处可以选择文件。",
    no_microphone: "没有找到麦克风。",
    microphone_refused: "浏览器未允许使用麦克风：{reason}",
    play: "播放",
    pause: "暂停",
    position: "位置",
    position_of: "第 {position} 秒，共 {seconds} 秒",
    seconds: "{seconds} 秒",
  },
};
const PLACES = [
  ["say", (element) => element.textContent, (element, words) => { element.textContent = words; }],
  ["sayLabel", (element) => element.ariaLabel, (element, words) => { element.ariaLabel = words; }],
  ["sayPlaceholder", (element) => element.placeholder, (element, words) => { element.placeholder = words; }],
];
const STORED = "language";

let language = "en";

/** The words for it, with {names} filled in; in the language of now, unless another is asked for. */
export function words(key, values = {}, inLanguage = language) {
  const saying = SAYINGS[inLanguage][key];
  return saying.replace(/\{(\w+)\}/g, (_whole, name) => values[name]);
}

/** Every element that has words of its own, with the way they are set. */
function* places() {
  for (const [name, get, set] of PLACES) {
    const attribute = name.replace(/[A-Z]/, (letter) => `-${letter.toLowerCase()}`);
    for (const element of document.querySelectorAll(`[data-${attribute}]`)) {
      yield { key: element.dataset[name], get: () => get(element), set: (said) => set(element, said) };
    }
  }
}

/** Take over the page's English words, and choose the browser's language, or the one that was chosen here. */
export function begin() {
  for (const place of places()) SAYINGS.en[place.key] = place.get();
  const wanted = [localStorage.getItem(STORED), ...navigator.languages];
  const found = wanted.map((each) => each?.split("-")[0]).find((each) => each in SAYINGS);
  choose(found ?? "en");
}

/** Say everything in that language from now on. */
export function choose(name, remember = false) {
  language = name;
  if (remember) localStorage.setItem(STORED, name);
  document.documentElement.lang = name;
  for (const place of places()) place.set(words(place.key));
}

/** The language of now. */
export const chosen = () => language;
