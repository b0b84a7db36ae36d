// @ts-check
// The filters of the report need no script. With this one the address keeps them, and they say how many rows are left.

(() => {
  "use strict";

  const list = /** @type {HTMLElement} */ (document.querySelector(".compatkit-claims:has(.filters)"));
  const fields = /** @type {NodeListOf<HTMLInputElement>} */ (list.querySelectorAll(".filters input"));
  const rows = [...list.querySelectorAll("li")];
  const count = document.createElement("output");
  count.className = "count";
  list.querySelector(".filters")?.append(count);

  /** @param {HTMLInputElement} field */
  const nameOf = ({ name }) => name.replace("compatkit-", "");

  function tell() {
    count.textContent = `${rows.filter((row) => row.offsetParent).length} of ${rows.length}`;
  }

  const given = new URLSearchParams(location.search);
  for (const field of fields) if (given.get(nameOf(field)) === field.value) field.checked = true;

  list.addEventListener("change", () => {
    const url = new URL(location.href);
    for (const field of fields) {
      if (!field.checked) continue;
      if (field.defaultChecked) url.searchParams.delete(nameOf(field));
      else url.searchParams.set(nameOf(field), field.value);
    }
    history.replaceState(history.state, "", url);
    tell();
  });
  window.addEventListener("hashchange", tell); // a row that a link leads to is there whatever is picked
  window.addEventListener("pageshow", tell);
})();
