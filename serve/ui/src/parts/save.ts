/** Gives a text to the reader as a file: what is too long to be drawn is not lost. */

export function save(name: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // Some browsers take hold of it only when the reader has said where it goes.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
