/** How busy a run was from its begin to its end: one bar a stretch. */

import { count } from "../run/words";

const BAR = 4;
const HEIGHT = 20;

export function Sparkline({ counts }: { counts: readonly number[] }) {
  const most = Math.max(1, ...counts);
  // Bursts are thousands of times as dense as waits: the logarithm shows both.
  const bars = counts.map((one, at) => {
    const height = one ? Math.max(1, (Math.log1p(one) / Math.log1p(most)) * HEIGHT) : 0;
    return `M${at * BAR} ${HEIGHT}v${-height.toFixed(1)}h${BAR - 1}V${HEIGHT}z`;
  });
  return (
    <svg
      className="sparkline"
      viewBox={`0 0 ${counts.length * BAR} ${HEIGHT}`}
      role="img"
      aria-label={`at most ${count(most)} of ${count(counts.reduce((a, b) => a + b, 0))} events at once`}
    >
      <path d={bars.join("")} />
    </svg>
  );
}
