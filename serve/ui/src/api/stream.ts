/** A run's events as they are stored: SSE by fetch (a header carries the token), resumed where it broke off. */

import { createParser } from "eventsource-parser";
import { listen } from "./client";
import type { SwarmEvent } from "./event";
import { isAhead, isRefusal } from "./problem";

/** A broken one is made again by itself, a refused one is not. */
export type Connection = "connecting" | "open" | "broken" | "refused";

export interface Listener {
  /** Everything that came since the last time. */
  onEvents: (events: SwarmEvent[]) => void;
  onConnection: (connection: Connection) => void;
  /** Everything up to there has come, or is none of this run. */
  onPosition: (seq: number) => void;
}

const RETRY_MILLISECONDS = [500, 1_000, 2_000, 5_000];
/** The API gives a sign of life every 15 s; whose machine slept or was unplugged never says that it is gone. */
const SILENCE_MILLISECONDS = 40_000;

/** Follow a run after a sequence until the signal is aborted. */
export async function follow(run: string, after: number, listener: Listener, signal: AbortSignal): Promise<void> {
  const batch = new Batch(listener.onEvents);
  let seen = after;
  const reach = (seq: number) => {
    seen = seq;
    listener.onPosition(seq);
  };
  listener.onConnection("connecting");
  for (let failures = 0; !signal.aborted; failures += 1) {
    const silence = new Silence(SILENCE_MILLISECONDS);
    try {
      const url = `${location.origin}/api/v1/stream?run=${encodeURIComponent(run)}&after=${seen}`;
      const init = { signal: AbortSignal.any([signal, silence.signal]), headers: { Accept: "text/event-stream" } };
      const response = await listen(url, init);
      listener.onConnection("open");
      await read(response, silence, (id, data) => {
        failures = 0;
        if (data) batch.add(JSON.parse(data) as SwarmEvent);
        if (id > seen) reach(id);
      });
    } catch (error) {
      if (signal.aborted) return;
      if (isAhead(error)) reach(0);
      else if (isRefusal(error)) return listener.onConnection("refused");
    } finally {
      silence.end();
    }
    listener.onConnection("broken");
    await pause(RETRY_MILLISECONDS[Math.min(failures, RETRY_MILLISECONDS.length - 1)] ?? 5_000, signal);
  }
}

async function read(response: Response, silence: Silence, told: (id: number, data: string) => void): Promise<void> {
  const parser = createParser({ onEvent: (event) => told(Number(event.id ?? 0), event.data) });
  const positions = new Positions((id) => told(id, ""));
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
      silence.heard();
      parser.feed(part.value);
      positions.feed(part.value);
    }
  } finally {
    // What cannot be read ends the connection too: a browser has six of them for each origin.
    reader?.cancel().catch(() => undefined);
  }
}

const ID = /^id: ?(\d+)\r?$/;
const ID_CHARACTERS = 64;

/** The API tells whose run is quiet how far it has read, by frames of an id alone: no event comes of them. */
class Positions {
  /** What has come of a line; of a long one enough to see that it is no id. */
  private begun = "";
  private id = 0;

  constructor(private readonly told: (id: number) => void) {}

  feed(text: string): void {
    const [first = "", ...lines] = text.split("\n");
    const rest = lines.pop();
    if (rest !== undefined) for (const line of [this.begun + first, ...lines]) this.take(line);
    this.begun = (rest ?? this.begun + first).slice(0, ID_CHARACTERS);
  }

  private take(line: string): void {
    const id = ID.exec(line)?.[1];
    if (id) this.id = Number(id);
    // A frame that is cut off may lack its event.
    if ((line === "" || line === "\r") && this.id) this.told(this.id);
  }
}

/** Gives a connection up when nothing has come for so long. */
class Silence {
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly milliseconds: number) {
    this.heard();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Something came. */
  heard(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.controller.abort(), this.milliseconds);
  }

  end(): void {
    clearTimeout(this.timer);
  }
}

const FRAME_MILLISECONDS = 16;
const PACE_MILLISECONDS = 100;

/** Collects events: the first after a rest is there with the next frame, a thousand a second cost ten updates. */
class Batch {
  private waiting: SwarmEvent[] = [];
  private handedAt = 0;

  constructor(private readonly hand: (events: SwarmEvent[]) => void) {}

  add(event: SwarmEvent): void {
    // Timers run in a hidden tab too, where frames do not.
    if (this.waiting.push(event) > 1) return;
    const rest = this.handedAt + PACE_MILLISECONDS - performance.now();
    setTimeout(() => this.flush(), Math.max(FRAME_MILLISECONDS, rest));
  }

  private flush(): void {
    const events = this.waiting;
    this.waiting = [];
    this.handedAt = performance.now();
    this.hand(events);
  }
}

export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end);
  });
}
