// Light, dark, or as the system is; kept by the browser.

export function applyTheme() {
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "";
}

/** Go on to the next theme; returns its name, "" for that of the system. */
export function nextTheme() {
  const next = { "": "light", light: "dark", dark: "" }[document.documentElement.dataset.theme ?? ""];
  localStorage.setItem("theme", next);
  applyTheme();
  return next;
}
