// The colour of a class, by its place among the classes: light enough for dark text on it.

const COLOURS = ["#ff6b6b", "#4dabf7", "#ffc53d", "#51cf66", "#cc8cff", "#ff9248", "#2dd4bf", "#ff7ab8", "#b2e04a", "#93a4ff"];
export const colour = (i) => COLOURS[i] ?? `hsl(${(i * 137.5) % 360} 80% ${62 + (i % 3) * 6}%)`;
