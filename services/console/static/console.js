// A paper is named by its title, its day and its SHA-256: these are read off a file, which stays where it is.
"use strict";
for (const paper of document.querySelectorAll("[data-paper]")) {
  const pick = paper.querySelector(".pick");
  const file = pick.querySelector("input");
  const into = (name) => paper.querySelector(`[name$=".${name}"]`);
  if (!window.crypto || !window.crypto.subtle) continue;
  pick.hidden = false;
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    const digest = new Uint8Array(await window.crypto.subtle.digest("SHA-256", await chosen.arrayBuffer()));
    into("sha256").value = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    into("title").value = chosen.name.slice(0, 200);
    if (!into("date").value) into("date").value = new Date(chosen.lastModified).toISOString().slice(0, 10);
  });
}

// Keys of one letter press the buttons that show them, but not while somebody writes, holds a key down, or means a command.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if (event.target.closest("input, select, textarea, [contenteditable]")) return;
  for (const button of document.querySelectorAll("[data-key]")) {
    if (button.dataset.key !== event.key.toLowerCase() || button.disabled) continue;
    event.preventDefault();
    button.click();
    return;
  }
});
