/** How high the drawn parts are, in pixels, and how what is drawn finds its colours. */

export const LANE_HEIGHT = 26;
export const DENSITY_HEIGHT = 34;

/** The colour a custom property of the page's style names. */
export type Colours = (name: string) => string;
