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

// What refreshes by itself (`data-live`) stays as it is while no good answer comes: since when and why is said, and said no more
// when one comes. A button has it pause.
const live = (() => {
  const bar = document.getElementById("live");
  const [note, button] = bar.children;
  const loaded = new Date();
  const last = new Map();
  const failing = new Map();
  let said = "";
  let isPaused = false;

  const say = () => {
    const [[name, [status, title]] = ["", [0, ""]]] = failing;
    const why = status === 0 ? "none" : status === 401 ? "ended" : "wrong";
    if (said === (said = name && `${name} ${why} ${title}`)) return;
    note.replaceChildren();
    if (!name) return;
    const since = (last.get(name) || loaded).toLocaleTimeString(document.documentElement.lang, { timeZone: "Europe/Paris", hourCycle: "h23" });
    note.append(`${bar.dataset.stale.replace("{time}", since)} ${bar.dataset[why]} `);
    const more = document.createElement(why === "ended" ? "a" : "span");
    if (why === "ended") more.href = location.href;
    more.textContent = why === "ended" ? bar.dataset.signIn : title && `(${title})`;
    note.append(more);
  };
  const came = (name) => {
    last.set(name, new Date());
    failing.delete(name);
    say();
  };
  const failed = (name, status, title = "") => {
    failing.set(name, [status, title]);
    say();
  };

  const partOf = (event) => event.detail.target && event.detail.target.closest("[data-live]");
  document.addEventListener("htmx:configRequest", (event) => {
    if (!event.detail.elt.matches("[data-live]")) return;
    event.detail.timeout = 8000;
    if (isPaused) event.preventDefault();
  });
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    const part = partOf(event);
    if (!part) return;
    const { xhr, pathInfo } = event.detail;
    const isThere = new URL(xhr.responseURL).pathname === new URL(pathInfo.requestPath, location.href).pathname;
    if (xhr.status === 200 && isThere) return came(part.id);
    event.preventDefault();
    const page = new DOMParser().parseFromString(xhr.responseText, "text/html");
    const title = page.querySelector(".wrong strong");
    failed(part.id, isThere ? xhr.status : 401, title ? title.textContent : "");
  });
  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => {
      const part = partOf(event);
      if (part) failed(part.id, 0);
    });
  }
  const show = () => {
    bar.hidden = !document.querySelector("[data-live]");
  };
  document.addEventListener("htmx:afterSettle", show);
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.setAttribute("aria-pressed", String(isPaused));
  });
  show();
  return { came, failed, paused: () => isPaused };
})();
