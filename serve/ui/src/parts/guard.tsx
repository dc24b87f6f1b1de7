/** Keeps the failure of one part of a page from taking the others with it. */

import { Component, type ReactNode } from "react";
import { Failure } from "./notes";

interface Props {
  /** What the failure belongs to: another key tries again. */
  of: string;
  /** What is drawn around a failure. */
  frame?: (failure: ReactNode) => ReactNode;
  children: ReactNode;
}

export class Guard extends Component<Props, { error: Error | null; of: string }> {
  override state = { error: null as Error | null, of: this.props.of };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  static getDerivedStateFromProps(props: Props, state: { of: string }) {
    return props.of === state.of ? null : { error: null, of: props.of };
  }

  override render() {
    const { error } = this.state;
    if (!error) return this.props.children;
    const failure = <Failure error={error} retry={() => this.setState({ error: null })} />;
    return this.props.frame?.(failure) ?? failure;
  }
}
