/** Starts the page. */

import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { isRefusal } from "./api/problem";
import { whereUnanswered } from "./api/queries";
import { redeem } from "./api/session";
import { App } from "./app";
import "./style/variables.css";
import "./style/base.css";
import "./style/parts.css";

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      retry: (failures, error) => failures < 2 && !isRefusal(error),
      refetchInterval: whereUnanswered,
      // The API may be on this machine, which the browser calls offline when its network goes.
      networkMode: "always",
      refetchOnWindowFocus: false,
      gcTime: 60_000,
    },
    mutations: { networkMode: "always" },
  },
});

function start(root: HTMLElement) {
  createRoot(root).render(
    <StrictMode>
      <QueryClientProvider client={queries}>
        <App />
      </QueryClientProvider>
    </StrictMode>,
  );
}

const root = document.getElementById("page");
if (root) redeem().then(() => start(root));
// A link that is pasted into a tab of this page loads nothing anew.
addEventListener("hashchange", () => void redeem());
