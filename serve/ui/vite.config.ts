import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The names of the built files carry a hash of their content, so the same sources give the same bytes and names.
export default defineConfig({
  base: "/static/",
  plugins: [react()],
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    // The content policy allows files of our own only: nothing may become a data: address or an inline script.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  // `npm run dev` beside a running API: ENCHANTED_API_URL names it.
  server: { proxy: { "/api": process.env.ENCHANTED_API_URL ?? "http://127.0.0.1:8000" } },
});
