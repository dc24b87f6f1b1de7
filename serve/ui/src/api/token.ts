/** The API's token. It is kept for this tab only: another program may have the same port tomorrow. */

import { create } from "zustand";

export const NOT_A_TOKEN = "This token does not open the API.";
const KEY = "enchanted.token";

interface TokenStore {
  token: string;
  /** Why the last token was given up; empty otherwise. */
  refused: string;
  accept: (token: string) => void;
  forget: (why?: string) => void;
}

export const useToken = create<TokenStore>((set) => ({
  token: sessionStorage.getItem(KEY) ?? "",
  refused: "",
  accept: (token) => {
    sessionStorage.setItem(KEY, token);
    set({ token, refused: "" });
  },
  forget: (why = "") => {
    sessionStorage.removeItem(KEY);
    set({ token: "", refused: why });
  },
}));

export const authorization = (): { Authorization: string } => ({
  Authorization: `Bearer ${useToken.getState().token}`,
});
