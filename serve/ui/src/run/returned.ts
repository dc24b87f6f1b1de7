/** What failed while the API was away is asked for again when it is back. */

import { useQueryClient } from "@tanstack/react-query";
import { useEffect } from "react";
import { isRefusal } from "../api/problem";
import type { Connection } from "../api/stream";

export function useAskAgain(connection: Connection): void {
  const queries = useQueryClient();
  useEffect(() => {
    if (connection !== "open") return;
    void queries.refetchQueries({ predicate: ({ state }) => state.error !== null && !isRefusal(state.error) });
  }, [connection, queries]);
}
