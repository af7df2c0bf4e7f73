// The microphone as 16-bit mono pieces of 20 ms. This file is a module of the page and its own audio worklet.

const PIECE_S = 0.02;

if (globalThis.registerProcessor) {
  registerProcessor('pieces', class extends AudioWorkletProcessor {
    constructor() {
      super();
      this.piece = new Int16Array(Math.round(sampleRate * PIECE_S));
      this.n = 0;
    }

    process([[channel]]) {
      for (const value of channel ?? []) {
        this.piece[this.n++] = 32767 * Math.max(-1, Math.min(1, value));
        if (this.n === this.piece.length) {
          this.port.postMessage(this.piece);
          this.n = 0;
        }
      }
      return true;
    }
  });
}

export class Microphone {
  // onPiece: called with an Int16Array and its loudness 0..1
  static async open(onPiece) {
    const self = new Microphone();
    self.stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
    self.context = new AudioContext();
    await self.context.audioWorklet.addModule('microphone.js');
    const node = new AudioWorkletNode(self.context, 'pieces', { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => {
      const square = data.reduce((sum, value) => sum + value * value, 0) / data.length;
      onPiece(data, Math.min(1, Math.sqrt(square) / 8000));
    };
    self.context.createMediaStreamSource(self.stream).connect(node);
    return self;
  }

  get sampleRate() { return this.context.sampleRate; }

  close() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
  }
}
