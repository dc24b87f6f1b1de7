/** A titled region of the mission view. */

import type { ReactNode } from "react";

interface Props {
  name: string;
  title: string;
  /** Beside the title. */
  tools?: ReactNode;
  children: ReactNode;
}

export function Panel({ name, title, tools, children }: Props) {
  const id = `${name}-title`;
  return (
    <section className={`panel panel-${name}`} aria-labelledby={id}>
      <header className="panel-head">
        <h2 id={id}>{title}</h2>
        {tools}
      </header>
      {children}
    </section>
  );
}
