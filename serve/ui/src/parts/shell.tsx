/** The frame around every page. */

import type { ReactNode } from "react";
import { Link } from "wouter";
import { useToken } from "../api/token";
import { useTheme } from "../style/theme";

export interface Crumb {
  text: string;
  to?: string;
}

export function Shell({ crumbs, children }: { crumbs: Crumb[]; children: ReactNode }) {
  const { theme, toggle } = useTheme();
  const forget = useToken((store) => store.forget);
  const signedIn = useToken((store) => store.token !== "");
  return (
    <>
      <header className="bar">
        <nav aria-label="Where you are">
          <Link to="/" className="brand">
            <img src="/static/favicon.svg" alt="" width="22" height="22" /> Enchanted
          </Link>
          {crumbs.map(({ text, to }) => (
            <span key={text} className="crumb">
              <span aria-hidden="true">/</span>{" "}
              {to ? <Link to={to}>{text}</Link> : <span aria-current="page">{text}</span>}
            </span>
          ))}
        </nav>
        {signedIn && (
          <Link to="/cluster" className="bar-link">
            Cluster
          </Link>
        )}
        <button
          type="button"
          className="quiet"
          onClick={toggle}
          aria-label={`Change to ${theme === "dark" ? "light" : "dark"} colours`}
        >
          {theme === "dark" ? "Light" : "Dark"}
        </button>
        {signedIn && (
          <button type="button" className="quiet" onClick={() => forget()}>
            Sign out
          </button>
        )}
      </header>
      {children}
    </>
  );
}
