/** The switch of the keys of one character. */

import { useLetters } from "../cursor/letters";

export function LettersSwitch() {
  const { on, toggle } = useLetters();
  return (
    <label className="switch" title="E, L, [ and ] move the cursor, wherever the focus is">
      <input type="checkbox" checked={on} onChange={toggle} /> Letter keys
    </label>
  );
}
