/** The canvas under the slider: drawn anew when the run, its size or the colours change, never by the cursor. */

import { useEffect, useRef, useState } from "react";
import type { RunLog } from "../../run/log";
import type { Scale } from "../../run/scale";
import { useTheme } from "../../style/theme";
import { draw } from "./draw";
import { DENSITY_HEIGHT, LANE_HEIGHT } from "./sizes";

interface Props {
  log: RunLog;
  version: number;
  scale: Scale;
}

export function Drawing({ log, version, scale }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const width = useWidth(canvas);
  const theme = useTheme((store) => store.theme);
  const height = log.lanes * LANE_HEIGHT + DENSITY_HEIGHT;
  // biome-ignore lint/correctness/useExhaustiveDependencies: version and theme say that the picture is another
  useEffect(() => {
    const frame = requestAnimationFrame(
      () => canvas.current && width && draw(canvas.current, log, scale, width, height),
    );
    return () => cancelAnimationFrame(frame);
  }, [log, version, scale, width, height, theme]);
  return <canvas ref={canvas} style={{ height }} />;
}

function useWidth(element: { current: HTMLElement | null }): number {
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry?.contentRect.width ?? 0)));
    if (element.current) observer.observe(element.current);
    return () => observer.disconnect();
  }, [element]);
  return width;
}
