// Filters the answers that stand on this page. Without it all of them are shown.
"use strict";
(() => {
  const form = document.getElementById("filter");
  const answers = document.getElementById("answers");
  const more = document.getElementById("more");
  if (!form || !answers || !more) return;
  const STEP = 6;
  const rows = [...answers.children];
  const said = form.querySelector("output");
  let room = STEP;

  const has = (list, value) => (list || "").includes("|" + value + "|");

  const fits = (row, asked) =>
    (!asked.benchmark || row.dataset.benchmark === asked.benchmark) &&
    (!asked.kind || has(row.dataset.kinds, asked.kind)) &&
    (!asked.group || has(row.dataset.groups, asked.group)) &&
    judged(row, asked) &&
    asked.words.every((word) => row.textContent.toLowerCase().includes(word));

  const judged = (row, asked) => {
    if (!asked.verdict) return true;
    const list = row.dataset[asked.verdict];
    return asked.model ? has(list, asked.model) : list !== "|";
  };

  const show = () => {
    const given = new FormData(form);
    const asked = Object.fromEntries(given);
    asked.words = (asked.words || "").toLowerCase().split(/\s+/).filter(Boolean);
    const fitting = rows.filter((row) => fits(row, asked));
    const shown = new Set(fitting.slice(0, room));
    rows.forEach((row) => { row.hidden = !shown.has(row); });
    more.hidden = shown.size === fitting.length;
    said.textContent = fitting.length
      ? shown.size + " of " + fitting.length + " shown"
      : "none is like that";
  };

  form.addEventListener("input", () => { room = STEP; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const next = rows.filter((row) => !row.hidden).pop();
    room += 2 * STEP;
    show();
    if (more.hidden && next) next.setAttribute("tabindex", "-1"), next.focus();
  });
  form.hidden = false;
  show();
})();
