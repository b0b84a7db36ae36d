// @ts-check
// The forest of the report needs no script. With this one the address keeps what is picked, figures without rows hide,
// and a slider moves all margins: verdicts follow, by the rule of the report.

(() => {
  "use strict";

  const forest = /** @type {HTMLElement} */ (document.querySelector(".compatkit-forest"));
  const fields = /** @type {NodeListOf<HTMLInputElement>} */ (forest.querySelectorAll(".filters input"));
  const rows = /** @type {HTMLElement[]} */ ([...forest.querySelectorAll("li")]);
  const printed = new Map(rows.map((row) => [row, row.dataset.verdict ?? ""]));
  const signs = new Map(rows.map((row) => [row.dataset.verdict, row.querySelector(".verdict")?.textContent ?? ""]));
  const bar = document.createElement("p");
  bar.className = "bar";
  bar.innerHTML =
    '<label>margins × <input type="range" min="0" max="5" step="0.25" value="1"></label> <output></output> <output class="count" aria-live="polite"></output>';
  const [times, count] = bar.querySelectorAll("output");
  const slider = /** @type {HTMLInputElement} */ (bar.querySelector("input"));
  forest.querySelector(".filters")?.append(bar);

  const nameOf = (/** @type {HTMLInputElement} */ { name }) => name.replace("compatkit-", "");

  /** The verdict of one set of images. @param {number[]} ours @param {string} direction @param {number} margin */
  function judge([mean, half, inner], direction, margin) {
    const inside = Math.abs(mean) + inner <= margin;
    const above = mean - half;
    const below = mean + half <= -margin;
    if (direction === "same") return inside ? "shown" : above >= margin || below ? "contradicted" : "open";
    if (above >= (direction === "above" ? margin : -margin)) return "shown";
    return below ? "contradicted" : inside && direction === "above" ? "equal" : "open";
  }

  /** @param {HTMLElement} row @param {number} factor */
  function verdict(row, factor) {
    const zone = /** @type {SVGElement | null} */ (row.querySelector(".zone"));
    const sets = [...row.querySelectorAll("g")].map(({ dataset }) => (dataset.ours ?? "").split(" ").map(Number));
    const first = printed.get(row) ?? "";
    if (!zone || sets.some((ours) => ours.length < 3)) return first;
    const margin = factor * Number(zone.dataset.margin);
    const words = new Set(sets.map((ours) => judge(ours, row.dataset.direction ?? "", margin)));
    return words.size > 1 ? "mixed" : [...words][0];
  }

  /** The zone on the scale of ``forest.signed``. @param {SVGElement} zone @param {number} factor */
  function widen(zone, factor) {
    const margin = Number(zone.dataset.margin);
    zone.dataset.width ??= zone.getAttribute("width") ?? "";
    const width = (Number(zone.dataset.width) * Math.asinh((factor * margin) / 2)) / Math.asinh(margin / 2);
    zone.setAttribute("x", String(150 - width / 2));
    zone.setAttribute("width", String(width));
  }

  /** Whether a row has what a field asks for. @param {HTMLElement} row @param {HTMLInputElement} field */
  function fits({ dataset }, field) {
    const name = nameOf(field);
    if (field.type !== "radio") return (dataset.is ?? "").split(" ").includes(name);
    return field.value === "all" || (dataset[name] ?? "").includes(field.value);
  }

  function tell() {
    const factor = Number(slider.value);
    forest.classList.toggle("moved", factor !== 1); // Holm's correction is for the margins as they were set
    for (const row of rows) {
      const word = verdict(row, factor);
      row.dataset.verdict = word;
      const said = /** @type {HTMLElement} */ (row.querySelector(".verdict"));
      said.textContent = signs.get(word) ?? word;
      const zone = row.querySelector("rect.zone");
      if (zone instanceof SVGElement) widen(zone, factor);
    }
    const picked = [...fields].filter((field) => field.checked && nameOf(field) !== "verdict");
    const left = rows.filter((row) => picked.every((field) => fits(row, field)));
    for (const field of fields) {
      const [total, papers] = field.parentElement?.querySelectorAll("b, small") ?? [];
      if (!total) continue; // a tile has the rows that would be there, were it picked
      const own = left.filter((row) => fits(row, field));
      total.textContent = String(own.length);
      papers.textContent = ["A", "B"]
        .map((of) => `${of} ${own.filter((r) => r.dataset.paper === of).length}`)
        .join(", ");
    }
    for (const section of forest.querySelectorAll("section")) {
      section.hidden = false;
      section.hidden = ![...section.querySelectorAll("li")].some((row) => row.offsetParent);
    }
    times.textContent = String(factor);
    count.textContent = `${rows.filter((row) => row.offsetParent).length} of ${rows.length} rows`;
  }

  const given = new URLSearchParams(location.search);
  for (const field of fields) if (given.get(nameOf(field)) === field.value) field.checked = true;

  forest.addEventListener("change", () => {
    const url = new URL(location.href);
    for (const field of fields) {
      if (field.type === "radio" && !field.checked) continue;
      if (field.checked === field.defaultChecked) url.searchParams.delete(nameOf(field));
      else url.searchParams.set(nameOf(field), field.value);
    }
    history.replaceState(history.state, "", url);
    tell();
  });
  slider.addEventListener("input", tell);
  window.addEventListener("hashchange", tell); // a row that a link leads to is there whatever is picked
  window.addEventListener("pageshow", tell);
  tell();
})();
