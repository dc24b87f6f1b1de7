/** A run's events as they are stored: SSE by fetch (a header carries the token), resumed where it broke off. */

import { createParser } from "eventsource-parser";
import { ask } from "./client";
import type { SwarmEvent } from "./event";
import { ApiProblem } from "./problem";

export type Connection = "connecting" | "open" | "broken";

export interface Listener {
  /** Everything that came since the last time. */
  onEvents: (events: SwarmEvent[]) => void;
  onConnection: (connection: Connection) => void;
}

const RETRY_MILLISECONDS = [500, 1_000, 2_000, 5_000];

/** Follow a run after a sequence until the signal is aborted. */
export async function follow(run: string, after: number, listener: Listener, signal: AbortSignal): Promise<void> {
  const batch = new Batch(listener.onEvents);
  let seen = after;
  for (let failures = 0; !signal.aborted; failures += 1) {
    listener.onConnection("connecting");
    try {
      const url = `${location.origin}/api/v1/stream?run=${encodeURIComponent(run)}&after=${seen}`;
      const response = await ask(url, { signal, headers: { Accept: "text/event-stream" } });
      listener.onConnection("open");
      await read(response, (id, data) => {
        seen = Math.max(seen, id);
        failures = 0;
        if (data) batch.add(JSON.parse(data) as SwarmEvent);
      });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiProblem && error.status >= 400 && error.status < 500)
        return listener.onConnection("broken");
    }
    listener.onConnection("broken");
    await pause(RETRY_MILLISECONDS[Math.min(failures, RETRY_MILLISECONDS.length - 1)] ?? 5_000, signal);
  }
}

async function read(response: Response, told: (id: number, data: string) => void): Promise<void> {
  const parser = createParser({ onEvent: (event) => told(Number(event.id ?? 0), event.data) });
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) parser.feed(part.value);
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

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
