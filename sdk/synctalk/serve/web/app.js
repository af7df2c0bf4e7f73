import { Microphone } from './microphone.js';
import { Session } from './player.js';

const $ = (id) => document.getElementById(id);
const RATE = 16000, PIECE = 8000, SEND_MS = 50, MAX_FILE = 64 << 20;
const POSE = [['Nod', 'down – up'], ['Turn', 'right – left'], ['Tilt', 'right – left']];
const COLOURS = [['Green', '#00b140'], ['White', '#f7f7f5'], ['Sand', '#d9c9ae'], ['Sky', '#9cc3e6'], ['Night', '#1b2033']];

let server = null, session = null, microphone = null, token = sessionStorage.getItem('token') ?? '';
const wanted = { pose: [0, 0, 0], expression: {}, background: undefined };

// --- coming in -------------------------------------------------------------------------------------------------------

async function load() {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (given) {
    keepToken(given);
    history.replaceState(null, '', location.pathname); // not to be copied along with the address
  }
  const answer = await fetch('api/avatars', { headers: token ? { authorization: `Bearer ${token}` } : {} }).catch(() => null);
  if (answer?.status === 401) return askToken(token ? 'This token does not fit.' : '');
  if (!answer?.ok) return tell(answer?.status === 429 ? 'Too many requests: wait a little, then reload.' : 'The server does not answer: is it running?');
  server = await answer.json();
  showAvatars();
  $('say').hidden = !server.can_say;
  $('start').disabled = false;
}

function keepToken(value) {
  token = value;
  sessionStorage.setItem('token', value);
}

function askToken(why) {
  $('door-error').textContent = why;
  $('door').showModal();
}

$('door').addEventListener('close', () => {
  keepToken($('token').value.trim());
  load();
});
$('door').addEventListener('cancel', (event) => event.preventDefault());

function showAvatars() {
  for (const [i, avatar] of server.avatars.entries()) {
    const input = Object.assign(document.createElement('input'), { type: 'radio', name: 'avatar', value: avatar.id, checked: i === 0 });
    const picture = Object.assign(document.createElement('img'), { src: avatar.poster, alt: '' });
    const label = document.createElement('label');
    label.append(input, picture, avatar.name);
    $('picker').append(label);
    input.addEventListener('change', () => { showPoster(); if (session) start(); });
  }
  $('picker').hidden = server.avatars.length < 2;
  showPoster();
}

const chosen = () => server.avatars.find((one) => one.id === document.querySelector('[name=avatar]:checked')?.value);

function showPoster() {
  const avatar = chosen();
  $('poster').src = avatar.poster;
  $('start-text').textContent = `Talk to ${avatar.name}`;
  $('video').ariaLabel = avatar.name;
  $('stage').style.aspectRatio = `${avatar.width} / ${avatar.height}`;
  showExpressions(avatar.expressions);
  buildPose(avatar.max_pose_deg);
}

// --- the session -----------------------------------------------------------------------------------------------------

function start() {
  stop();
  tell('');
  say('wait', 'Connecting …');
  const mine = new Session($('video'), { avatar: chosen().id, token, transport: $('transport').value, iceServers: server.ice_servers });
  session = mine;
  const on = (name, act) => mine.addEventListener(name, ({ detail }) => mine === session && act(detail));
  on('ready', () => sendWanted());
  on('stats', showStats);
  on('speaking', (detail) => say(detail.is ? 'speaking' : 'on', detail.is ? 'Speaking' : 'Listening'));
  on('interrupted', (detail) => detail.dropped_ms > 0 && say('on', `Interrupted: ${(detail.dropped_ms / 1000).toFixed(1)} s dropped`));
  on('error', (detail) => {
    tell(detail.code === 'idle' ? 'Nothing happened for a long time: press start to go on.' : detail.message);
    if (detail.code === 'unauthorised') askToken('This token does not fit.');
  });
  on('closed', () => { session = null; closed(); });
  mine.open();
}

function stop() {
  closeMicrophone();
  const old = session;
  session = null;
  old?.close();
}

function closed() {
  closeMicrophone();
  $('stage').classList.remove('live');
  $('hint').hidden = true;
  say('off', 'Not connected');
}

$('video').addEventListener('playing', () => {
  $('stage').classList.add('live');
  $('hint').hidden = !matchMedia('(pointer: fine)').matches;
  if ($('status').dataset.state !== 'speaking') say('on', 'Listening');
});
$('start').addEventListener('click', start);
$('transport').addEventListener('change', () => session && start());
addEventListener('pagehide', stop);

// Runs an act in a session, which is started where there is none.
function withSession(act) {
  if (session?.info) return act();
  if (!server) return;
  if (!session) start();
  session.addEventListener('ready', act, { once: true });
}

function say(state, text) {
  $('status').dataset.state = state;
  $('status-text').textContent = text;
}

function tell(text) {
  $('message').textContent = text;
  $('message').hidden = !text;
}

// --- speaking --------------------------------------------------------------------------------------------------------

async function speakFile(file) {
  tell('');
  if (file.size > MAX_FILE) return tell('This file is too large: give a shorter sound.');
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  } catch {
    return withSession(() => upload(file));
  }
  const samples = new Int16Array(sound.length);
  for (let c = 0; c < sound.numberOfChannels; c++) {
    const channel = sound.getChannelData(c);
    for (let i = 0; i < samples.length; i++) samples[i] += 32767 * Math.max(-1, Math.min(1, channel[i])) / sound.numberOfChannels;
  }
  withSession(() => {
    session.send({ type: 'sound', sample_rate: RATE });
    for (let at = 0; at < samples.length; at += PIECE) session.sendSound(samples.subarray(at, at + PIECE));
    session.send({ type: 'flush' });
  });
}

// What the browser cannot read, the server may.
async function upload(file) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(`api/sessions/${session.info.session}/sound`, { method: 'POST', body: file, headers }).catch(() => null);
  if (answer?.ok) return;
  const reason = await answer?.json().then((problem) => problem.message).catch(() => null);
  tell(`${file.name}: ${reason ?? 'it could not be sent. Try again.'}`);
}

$('file').addEventListener('change', () => {
  if ($('file').files.length) speakFile($('file').files[0]);
  $('file').value = '';
});
addEventListener('dragover', (event) => { event.preventDefault(); $('stage').classList.add('drop'); });
addEventListener('dragleave', (event) => { if (!event.relatedTarget) $('stage').classList.remove('drop'); });
addEventListener('drop', (event) => {
  event.preventDefault();
  $('stage').classList.remove('drop');
  if (event.dataTransfer.files.length) speakFile(event.dataTransfer.files[0]);
});

async function toggleMicrophone() {
  if (microphone) return closeMicrophone();
  if (!navigator.mediaDevices) return tell('Browsers give the microphone to https pages and to localhost only.');
  try {
    microphone = await Microphone.open((piece, loudness) => {
      session?.sendSound(piece);
      $('level').firstElementChild.style.transform = `scaleX(${loudness})`;
    });
  } catch {
    return tell('The microphone cannot be used: allow it for this page.');
  }
  $('microphone').ariaPressed = 'true';
  $('level').hidden = false;
  microphone.wasMuted = $('mute').checked;
  $('mute').checked = $('video').muted = true; // hearing oneself late is a torment
  withSession(() => session.send({ type: 'sound', sample_rate: microphone.sampleRate }));
}

function closeMicrophone() {
  if (!microphone) return;
  microphone.close();
  $('mute').checked = $('video').muted = microphone.wasMuted;
  microphone = null;
  session?.send({ type: 'flush' });
  $('microphone').ariaPressed = 'false';
  $('level').hidden = true;
}

$('microphone').addEventListener('click', toggleMicrophone);
$('mute').addEventListener('change', () => { $('video').muted = $('mute').checked; });

function interrupt() {
  closeMicrophone();
  session?.send({ type: 'interrupt' });
}
$('stop').addEventListener('click', interrupt);
addEventListener('keydown', (event) => { if (event.key === 'Escape' && !$('door').open) interrupt(); });

$('say').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('text').value.trim();
  if (!text) return;
  withSession(() => session.send({ type: 'say', text }));
  $('text').value = '';
});
$('text').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); $('say').requestSubmit(); }
});

// --- steering --------------------------------------------------------------------------------------------------------

const due = new Map();
function steer(change) {
  for (const [name, value] of Object.entries(change)) due.set(name, value);
  if (due.size && !steer.timer) steer.timer = setTimeout(() => {
    steer.timer = null;
    session?.send({ type: 'control', lerp_s: 0.12, ...Object.fromEntries(due) });
    due.clear();
  }, SEND_MS);
}

// A new session is as the sliders stand.
function sendWanted() {
  if (wanted.pose.some(Boolean)) steer({ pose: wanted.pose });
  if (Object.keys(wanted.expression).length) steer({ expression: { ...wanted.expression } });
  if (wanted.background) wanted.background();
}

function slider(name, note, range, show, act) {
  const label = document.createElement('label'), output = document.createElement('output'), input = document.createElement('input');
  Object.assign(input, { type: 'range', id: `slider-${range.name}`, ariaLabel: name, ...range });
  label.htmlFor = input.id; // without, it would belong to the output
  input.value = range.value;
  const update = (value) => { output.textContent = show(value); input.setAttribute('aria-valuetext', `${show(value)}${note ? `, ${note}` : ''}`); };
  input.addEventListener('input', () => { update(Number(input.value)); act(Number(input.value)); });
  update(null);
  label.append(name, output, input);
  return Object.assign(label, { reset: () => { input.value = range.value; update(null); } });
}

function buildPose(limits) {
  $('pose').replaceChildren(...POSE.map(([name, note], i) => slider(
    name, note, { min: -limits[i], max: limits[i], step: 0.5, value: wanted.pose[i], name: name.toLowerCase() },
    (value) => `${(value ?? wanted.pose[i]).toFixed(1)}°`,
    (value) => { wanted.pose[i] = value; steer({ pose: wanted.pose }); },
  )));
}

function showExpressions(names) {
  wanted.expression = {};
  $('expression').replaceChildren(...names.map((name) => slider(
    name.replace(/([A-Z])/g, ' $1').toLowerCase().replace(/^./, (first) => first.toUpperCase()), '',
    { min: 0, max: 1, step: 0.01, value: 0, name },
    (value) => value === null ? 'own' : `${Math.round(100 * value)} %`,
    (value) => { wanted.expression[name] = value; steer({ expression: { ...wanted.expression } }); },
  )));
}

document.querySelectorAll('[data-reset]').forEach((button) => button.addEventListener('click', (event) => {
  event.preventDefault(); // it lies in a summary, which would close
  const what = button.dataset.reset;
  if (what === 'pose') wanted.pose = [0, 0, 0]; else wanted.expression = {};
  if (what === 'pose') buildPose(chosen().max_pose_deg); else for (const label of $(what).children) label.reset?.();
  session?.send({ type: 'control', [what]: null, lerp_s: 0.4 });
}));

function buildBackground() {
  const option = (name, paint, act) => {
    const label = document.createElement('label'), input = document.createElement('input'), swatch = document.createElement('i');
    Object.assign(input, { type: 'radio', name: 'background', ariaLabel: name, checked: name === 'Own' });
    label.title = name;
    paint(swatch);
    label.append(input, swatch);
    input.addEventListener('change', () => { wanted.background = act; act(); });
    return label;
  };
  const colour = (hex) => steer({ background: [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)) });
  const own = option('Own', (swatch) => { swatch.textContent = 'own'; }, () => steer({ background: null }));
  const colours = COLOURS.map(([name, hex]) => option(name, (swatch) => { swatch.style.background = hex; }, () => colour(hex)));
  const picker = Object.assign(document.createElement('input'), { type: 'color', value: '#7c6cf0', ariaLabel: 'Another colour', title: 'Another colour' });
  picker.addEventListener('input', () => { choose(() => colour(picker.value)); });
  const label = Object.assign(document.createElement('label'), { className: 'button', textContent: 'Picture …' });
  const file = Object.assign(document.createElement('input'), { type: 'file', accept: 'image/*', ariaLabel: 'A picture as background' });
  file.addEventListener('change', async () => {
    if (!file.files.length) return;
    const picture = await createImageBitmap(file.files[0]).catch(() => null);
    file.value = '';
    if (picture) choose(() => session?.sendPicture(pixels(picture, session.info))); else tell('This is no picture that the browser can read.');
  });
  label.append(file);
  $('background').append(own, ...colours, picker, label);
}

function choose(act) {
  document.querySelectorAll('[name=background]').forEach((input) => { input.checked = false; });
  wanted.background = act;
  act();
}

// A picture as RGB bytes, cropped to the avatar's size.
function pixels(picture, { width, height }) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext('2d');
  const scale = Math.max(width / picture.width, height / picture.height), w = picture.width * scale, h = picture.height * scale;
  context.drawImage(picture, (width - w) / 2, (height - h) / 2, w, h);
  const rgba = context.getImageData(0, 0, width, height).data, rgb = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) rgb[3 * i + c] = rgba[4 * i + c];
  return rgb;
}

// --- figures ---------------------------------------------------------------------------------------------------------

async function showStats(stats) {
  const buffer = await session?.bufferMs(), network = session?.roundTripMs / 2;
  const parts = { server: stats.reaction_ms, network, buffer };
  const ms = (value) => value == null || Number.isNaN(value) ? '–' : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  for (const [name, value] of Object.entries(parts)) {
    $(name).textContent = ms(value);
    document.querySelector(`#bar [data-part=${name}]`).style.flexGrow = value ?? 0;
  }
  const total = stats.reaction_ms == null ? null : Object.values(parts).reduce((sum, value) => sum + (value ?? 0), 0);
  $('total').textContent = ms(total);
  $('bar').ariaLabel = `avatar ${ms(parts.server)}, network ${ms(network)}, playback ${ms(buffer)}`;
  $('drawing').textContent = ms(stats.drawing_ms);
  $('fps').textContent = stats.fps.toFixed(1);
  $('transport').title = session?.transport === 'webrtc' ? 'now WebRTC' : 'now WebSocket';
}

buildBackground();
load();
