/** True as long as the value is, and for so long after: what never was does not linger. */

import { useEffect, useState } from "react";

export function useLinger(value: boolean, milliseconds: number): boolean {
  const [lingering, setLingering] = useState(value);
  useEffect(() => {
    if (value) return setLingering(true);
    const timer = setTimeout(() => setLingering(false), milliseconds);
    return () => clearTimeout(timer);
  }, [value, milliseconds]);
  return value || lingering;
}
