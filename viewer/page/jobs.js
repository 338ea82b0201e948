// @ts-check
// Work that takes longer than a picture: a bar, a way to stop it, and a link to what came out.

export class Jobs {
  /** @param {import("./link.js").Link} link */
  constructor(link) {
    this.link = link;
    this.next = 1;
    /** @type {Map<number, {row: HTMLElement, text: HTMLElement, bar: HTMLProgressElement, label: string, done: (report: any) => void}>} */
    this.rows = new Map();
  }

  /**
   * @param {HTMLElement} box where the bar is shown
   * @param {string} label
   * @param {{what: string, [name: string]: any}} message
   * @param {(report: any) => void} done for a report; a file is downloaded
   */
  start(box, label, message, done = () => {}) {
    const id = this.next++;
    const row = document.createElement("div");
    row.className = "job";
    const text = document.createElement("span");
    text.textContent = label;
    const bar = document.createElement("progress");
    const stop = document.createElement("button");
    stop.type = "button";
    stop.textContent = "Stop";
    stop.addEventListener("click", () => this.link.send({ type: "cancel", id }));
    row.append(text, bar, stop);
    box.replaceChildren(row, ...[...box.children].slice(0, 3));
    this.rows.set(id, { row, text, bar, label, done });
    if (!this.link.send({ type: "job", id, ...message })) this.end(id, "the viewer is not connected");
  }

  /** @param {import("./link.js").Message} message */
  hear(message) {
    const job = this.rows.get(message.job);
    if (!job) return;
    if (message.type === "progress") {
      job.bar.max = message.total;
      job.bar.value = message.done;
      job.text.textContent = `${job.label} ${message.total > 1 ? `${message.done} of ${message.total}` : ""}`;
    } else if (message.type === "file") {
      const anchor = document.createElement("a");
      anchor.href = message.url;
      anchor.download = message.name;
      anchor.textContent = `${message.name} (${size(message.bytes)})`;
      this.end(message.job, "", anchor);
      anchor.click();
    } else if (message.type === "report") {
      this.end(message.job, "done");
      job.done(message);
    } else this.end(message.job, message.text || "stopped");
  }

  /** @param {number} id @param {string} text @param {HTMLElement | null} anchor */
  end(id, text, anchor = null) {
    this.rows.get(id)?.row.replaceChildren(anchor ?? document.createTextNode(text));
    this.rows.delete(id);
  }

  lost() {
    for (const id of [...this.rows.keys()]) this.end(id, "lost: the viewer has gone");
  }
}

/** @param {number} bytes */
export const size = (bytes) => (bytes > 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e3).toFixed(1)} kB`);
