/** Numbers and times in the words of the page. */

const WHOLE = new Intl.NumberFormat("en");
const DAY_AND_TIME = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

export const count = (value: number): string => WHOLE.format(value);

export const percent = (fraction: number | undefined): string =>
  fraction === undefined ? "–" : `${(fraction * 100).toFixed(fraction < 0.1 ? 1 : 0)} %`;

export function moment(time: string): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? "unknown time" : DAY_AND_TIME.format(date);
}

/** "0.2 s", "14 s", "3 min 05 s", "2 h 10 min". */
export function seconds(value: number): string {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 60) return `${Math.floor(value)} s`;
  if (value < 3_600) return `${Math.floor(value / 60)} min ${pad(Math.floor(value % 60))} s`;
  return `${Math.floor(value / 3_600)} h ${pad(Math.floor((value % 3_600) / 60))} min`;
}

export const milliseconds = (value: number): string =>
  value < 1_000 ? `${Math.round(value)} ms` : seconds(value / 1_000);

/** "+00:12.4", since the run began; before it where clocks differ. */
export function offset(value: number): string {
  const tenths = Math.round(Math.abs(value) * 10);
  const hours = Math.floor(tenths / 36_000);
  const minutes = Math.floor((tenths % 36_000) / 600);
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return `${value < 0 && tenths ? "-" : "+"}${hours ? `${hours}:` : ""}${pad(minutes)}:${rest}`;
}

/** Of a text as it is saved: a character has up to four bytes. */
export const bytesOf = (text: string): string => bytes(new Blob([text]).size);

export function bytes(value: number): string {
  if (value < 1_024) return `${value} B`;
  if (value < 1_048_576) return `${(value / 1_024).toFixed(1)} KiB`;
  if (value < 1_073_741_824) return `${(value / 1_048_576).toFixed(1)} MiB`;
  return `${(value / 1_073_741_824).toFixed(1)} GiB`;
}

/** The first characters of a text, whole ones. */
export const cut = (text: string, most: number): string =>
  text.length <= most
    ? text
    : Array.from(text.slice(0, 2 * most))
        .slice(0, most)
        .join("");

/** The same, with a sign that there is more. */
export const short = (text: string, most: number): string => (text.length <= most ? text : `${cut(text, most)} …`);

const pad = (value: number) => String(value).padStart(2, "0");
