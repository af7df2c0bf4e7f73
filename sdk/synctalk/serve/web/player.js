// One session with the server: commands over a WebSocket, video by WebRTC or, where that fails, by the same WebSocket.

const CONNECT_MS = 5000;
const LATE_S = 0.35, LOST_S = 1.2, HOLD_S = 0.12, KEEP_S = 10;

export class Session extends EventTarget {
  constructor(video, { avatar, token, transport, iceServers }) {
    super();
    this.video = video;
    this.options = { avatar, token, transport, iceServers };
    this.transport = transport === 'websocket' || !window.RTCPeerConnection ? 'websocket' : 'webrtc';
    this.roundTripMs = null;
    this.isClosed = false;
  }

  open() {
    const socket = new WebSocket(new URL('api/session', location.href.replace(/^http/, 'ws').split('#')[0]));
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    socket.onopen = () => this.send({
      type: 'start', avatar: this.options.avatar, transport: this.transport,
      ...(this.options.token ? { token: this.options.token } : {}),
    });
    socket.onmessage = ({ data }) => typeof data === 'string' ? this.hear(JSON.parse(data)) : this.stream?.append(data);
    socket.onclose = () => { if (socket === this.socket) this.close(); };
    this.pings = setInterval(() => this.send({ type: 'ping', at: performance.now() }), 1000);
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  // samples: Int16Array, mono
  sendSound(samples) { this.sendBytes(0, new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength)); }

  // pixels: RGB bytes of the avatar's size
  sendPicture(pixels) { this.sendBytes(1, pixels); }

  sendBytes(kind, bytes) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(bytes.length + 1);
    message[0] = kind;
    message.set(bytes, 1);
    this.socket.send(message);
  }

  async hear(message) {
    switch (message.type) {
      case 'ready':
        this.info = message;
        if (this.transport === 'webrtc') await this.call().catch(() => this.fallBack());
        break;
      case 'answer':
        await this.peer?.setRemoteDescription({ type: 'answer', sdp: message.sdp }).catch(() => this.fallBack());
        break;
      case 'media':
        this.stream = new LiveStream(this.video, message.mime);
        break;
      case 'pong':
        this.roundTripMs = performance.now() - message.at;
        break;
      case 'interrupted':
        this.stream?.skip();
        break;
    }
    this.dispatchEvent(new CustomEvent(message.type, { detail: message }));
  }

  async call() {
    const peer = new RTCPeerConnection({ iceServers: this.options.iceServers.map((urls) => ({ urls })) });
    this.peer = peer;
    for (const kind of ['video', 'audio']) {
      const { receiver } = peer.addTransceiver(kind, { direction: 'recvonly' });
      if ('jitterBufferTarget' in receiver) receiver.jitterBufferTarget = 40;
    }
    const stream = new MediaStream();
    peer.ontrack = ({ track }) => {
      stream.addTrack(track);
      if (this.video.srcObject !== stream) this.video.srcObject = stream;
      this.video.play().catch(() => {});
    };
    this.patience = setTimeout(() => this.fallBack(), CONNECT_MS);
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === 'connected') clearTimeout(this.patience);
      if (peer.connectionState === 'failed') this.fallBack();
    };
    await peer.setLocalDescription(await peer.createOffer());
    await gathered(peer);
    this.send({ type: 'offer', sdp: peer.localDescription.sdp });
  }

  // WebRTC does not get through: go on over the WebSocket, in a new session.
  fallBack() {
    if (this.isClosed || this.transport !== 'webrtc') return;
    if (this.options.transport === 'webrtc') {
      this.dispatchEvent(new CustomEvent('error', { detail: { code: 'webrtc', message: 'WebRTC cannot connect here: choose Automatic or WebSocket' } }));
      this.close();
      return;
    }
    this.hangUp();
    this.transport = 'websocket';
    this.open();
  }

  hangUp() {
    clearTimeout(this.patience);
    clearInterval(this.pings);
    const { socket, peer } = this;
    this.socket = this.peer = null;
    socket?.close();
    peer?.close();
    this.stream?.close();
    this.stream = null;
    this.video.srcObject = null;
    this.video.removeAttribute('src');
  }

  close() {
    if (this.isClosed) return;
    this.isClosed = true;
    this.hangUp();
    this.dispatchEvent(new CustomEvent('closed'));
  }

  // How long pictures wait in this browser before they are shown.
  async bufferMs() {
    if (this.stream) return this.stream.aheadMs();
    const report = await this.peer?.getStats();
    for (const one of report?.values() ?? []) {
      if (one.type !== 'inbound-rtp' || one.kind !== 'video') continue;
      const delay = one.jitterBufferDelay - (this.delay ?? 0), count = one.jitterBufferEmittedCount - (this.count ?? 0);
      this.delay = one.jitterBufferDelay;
      this.count = one.jitterBufferEmittedCount;
      return count > 0 ? 1000 * delay / count : null;
    }
    return null;
  }
}

function gathered(peer) {
  if (peer.iceGatheringState === 'complete') return Promise.resolve();
  return new Promise((resolve) => {
    setTimeout(resolve, 1500);
    peer.addEventListener('icegatheringstatechange', () => peer.iceGatheringState === 'complete' && resolve());
  });
}

// Fragments of an endless mp4, played as close to their arrival as goes without stuttering.
class LiveStream {
  constructor(video, mime) {
    const Source = window.ManagedMediaSource ?? window.MediaSource;
    this.video = video;
    this.waiting = [];
    this.source = new Source();
    video.disableRemotePlayback = true;
    this.url = URL.createObjectURL(this.source);
    video.src = this.url;
    this.source.addEventListener('sourceopen', () => {
      this.buffer = this.source.addSourceBuffer(mime);
      this.buffer.addEventListener('updateend', () => this.pour());
      this.pour();
    }, { once: true });
    this.pacing = setInterval(() => this.pace(), 100);
  }

  append(data) {
    this.waiting.push(data);
    this.pour();
  }

  pour() {
    if (!this.buffer || this.buffer.updating || this.source.readyState !== 'open') return;
    const start = this.buffer.buffered.length ? this.buffer.buffered.start(0) : 0;
    if (this.video.currentTime - start > 2 * KEEP_S) {
      this.buffer.remove(start, this.video.currentTime - KEEP_S);
    } else if (this.waiting.length) {
      const size = this.waiting.reduce((sum, one) => sum + one.byteLength, 0), all = new Uint8Array(size);
      let at = 0;
      for (const one of this.waiting) { all.set(new Uint8Array(one), at); at += one.byteLength; }
      this.waiting = [];
      this.buffer.appendBuffer(all);
    }
  }

  end() { return this.buffer?.buffered.length ? this.buffer.buffered.end(this.buffer.buffered.length - 1) : 0; }

  aheadMs() { return 1000 * Math.max(0, this.end() - this.video.currentTime); }

  pace() {
    const ahead = this.end() - this.video.currentTime;
    if (this.video.paused && ahead > HOLD_S) this.video.play().catch(() => {});
    if (ahead > LOST_S) this.skip();
    else this.video.playbackRate = ahead > LATE_S ? 1.08 : 1;
  }

  skip() { if (this.end() - this.video.currentTime > 2 * HOLD_S) this.video.currentTime = this.end() - HOLD_S; }

  close() {
    clearInterval(this.pacing);
    URL.revokeObjectURL(this.url);
    this.video.playbackRate = 1;
  }
}
