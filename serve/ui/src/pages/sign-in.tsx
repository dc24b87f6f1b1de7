/** Asks for the API's token. */

import { type FormEvent, useEffect, useState } from "react";
import { NOT_A_TOKEN, useToken } from "../api/token";
import { Shell } from "../parts/shell";

const PRINTABLE = /^[!-~]+$/;

export function SignInPage() {
  const { accept, refused, forget } = useToken();
  const [text, setText] = useState("");
  useEffect(() => {
    document.title = "Sign in · Enchanted";
  }, []);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    // A header holds nothing else; what was copied with a zero-width space in it opens nothing either.
    if (PRINTABLE.test(text.trim())) accept(text.trim());
    else forget(NOT_A_TOKEN);
  };
  return (
    <Shell crumbs={[]}>
      <main className="narrow sign-in">
        <h1>Mission Control</h1>
        <p className="lead">See a swarm think, and go to any moment of any run.</p>
        <form onSubmit={submit}>
          <label htmlFor="token">Token of this API</label>
          <div className="row">
            <input
              id="token"
              type="password"
              autoComplete="off"
              required
              value={text}
              onChange={(event) => setText(event.target.value)}
              aria-describedby="token-help"
            />
            <button type="submit" className="primary">
              Open
            </button>
          </div>
          {refused && <p role="alert">{refused}</p>}
          <p id="token-help" className="dim">
            <code>enchanted open</code> prints a link that needs no token. The token is in a file whose path{" "}
            <code>enchanted status</code> prints. This tab keeps it until it is closed.
          </p>
        </form>
      </main>
    </Shell>
  );
}
