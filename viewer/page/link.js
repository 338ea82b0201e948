// @ts-check
// The connection to the server: JSON both ways, pictures and meshes as bytes behind a JSON header.

/** @typedef {{type: string, [name: string]: any}} Message */

/**
 * A binary message: the length of the JSON (32 bit, little-endian), the JSON, the bytes.
 * @param {ArrayBuffer} data
 * @returns {[Message, Uint8Array]}
 */
export function unpack(data) {
  const length = new DataView(data).getUint32(0, true);
  return [JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length))), new Uint8Array(data, 4 + length)];
}

export class Link {
  /**
   * @param {(message: Message, bytes: Uint8Array | null) => void} hear
   * @param {(good: boolean, text: string) => void} state
   */
  constructor(hear, state) {
    this.hear = hear;
    this.state = state;
    this.wait = 400; // ms until the next try
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}/live`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => { this.wait = 400; this.state(true, "connected"); };
    this.socket.onmessage = (event) => {
      if (typeof event.data === "string") this.hear(JSON.parse(event.data), null);
      else this.hear(...unpack(event.data));
    };
    this.socket.onclose = (event) => {
      const gone = this.wait < 8000 ? "the viewer has gone; trying again" : "the viewer has gone; started again, it has a new address";
      this.state(false, event.code === 1013 ? "too many pages are open" : gone);
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(2 * this.wait, 8000);
    };
  }

  /** True when it could be sent. @param {Message} message */
  send(message) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }
}
