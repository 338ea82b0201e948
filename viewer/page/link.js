// The wire to the server: JSON both ways, pictures as bytes behind a JSON header.

export class Link {
  constructor(hear, state) {
    this.hear = hear;
    this.state = state;
    this.wait = 400;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}/live`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => { this.wait = 400; this.state(true, "connected"); };
    this.socket.onmessage = (event) => this.take(event.data);
    this.socket.onclose = (event) => {
      this.state(false, event.code === 1013 ? "too many pages are open" : "the viewer has gone; trying again");
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(2 * this.wait, 8000);
    };
  }

  take(data) {
    if (typeof data === "string") return this.hear(JSON.parse(data), null);
    const length = new DataView(data).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    return this.hear(header, new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  }

  send(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }
}
