/** Keeps the failure of one panel from taking the others with it. */

import { Component, type ReactNode } from "react";
import { Failure } from "./notes";

interface Props {
  /** What the failure belongs to: another key tries again. */
  of: string;
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
    return this.state.error ? <Failure error={this.state.error} /> : this.props.children;
  }
}
