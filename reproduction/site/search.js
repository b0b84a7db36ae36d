// @ts-check
// <div class="compatkit-search" data-set="shapes">: pick an image, and see what it finds before and after an update.

(() => {
  "use strict";

  const { make, percent, tile: picture } = compatkitElements;

  /**
   * @typedef {{ tile: number, known: boolean, found: Record<string, number[]> }} Query
   * @typedef {{
   *   data: string, seed: number, images: number, classes: string[], tiles: number[], columns: number, side: number,
   *   sprite: string, queries: Query[], cases: { name: string, accuracy: number, recorded: number | null }[]
   * }} Searches as documented in reproduction/runs/export/searches.py
   */

  /** @type {Record<string, string>} */
  const CASES = {
    "old/old": "before the update",
    "new/identity(old)": "new model, old gallery",
    "new/h": "new model, gallery carried over",
    "new/new": "new model, gallery embedded anew",
  };

  /** The place of the row that is nearest to the mean of all. @param {number[][]} rows */
  function mostOrdinary(rows) {
    const mean = rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
    const distances = rows.map((row) => Math.hypot(...row.map((value, i) => value - mean[i])));
    return distances.indexOf(Math.min(...distances));
  }

  /** @param {HTMLElement} root @param {Searches} searches */
  function build(root, searches) {
    const { queries, cases, classes, tiles } = searches;
    /** @param {number} tile */
    const nameOf = (tile) => classes[tiles[tile]];
    const hits = queries.map(({ tile, found }) =>
      cases.map(({ name }) => found[name].filter((one) => tiles[one] === tiles[tile]).length),
    );

    const buttons = queries.map(({ tile, known }) => {
      const label = `search with ${nameOf(tile)}, ${known ? "a class that both models know" : "a class new to the update"}`;
      return make("button", { type: "button", "aria-label": label, "aria-pressed": "false" }, [
        picture(searches, tile),
      ]);
    });
    const results = cases.map(() => make("div", { class: "found" }));
    const counts = cases.map(() => make("span", { class: "count" }));
    const words = make("p", { class: "words", "aria-live": "polite" });
    const recorded = cases.map((found) => (found.recorded === null ? "nothing" : percent(found.recorded, 1)));
    const measured =
      `The first query is the picture whose five finds come nearest to these scores. No query finds itself. These models ` +
      `are the run of Table 1 on ${searches.data} with seed ${searches.seed}, trained again for this page; its record has ` +
      `${recorded.join(", ")}.`;
    /** @param {boolean} known */
    const group = (known) => buttons.filter((_, i) => queries[i].known === known);

    root.replaceChildren(
      make(
        "div",
        { class: "queries" },
        [true, false].map((known) => {
          const title = known ? "Both models know the class" : "The class is new";
          return make("div", { role: "group", "aria-label": title }, [make("b", {}, [title]), ...group(known)]);
        }),
      ),
      make(
        "div",
        { class: "results" },
        cases.map(({ name, accuracy }, i) => {
          const first = `first hit right for ${percent(accuracy, 1)} of ${searches.images} queries`;
          const label = make("div", { class: "label" }, [make("b", {}, [CASES[name]]), make("span", {}, [first])]);
          return make("div", { class: "case" }, [label, results[i], counts[i]]);
        }),
      ),
      words,
      make("p", { class: "measured" }, [measured]),
    );

    /** @param {number} chosen */
    function show(chosen) {
      const { tile, known, found } = queries[chosen];
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", `${i === chosen}`));
      const said = cases.map(({ name }, i) => {
        results[i].replaceChildren(
          ...found[name].map((one) => picture(searches, one, nameOf(one), tiles[one] === tiles[tile])),
        );
        counts[i].textContent = `${hits[chosen][i]} of ${found[name].length}`;
        return `${CASES[name]} ${hits[chosen][i]}`;
      });
      const which = known ? "which both models know" : "which only the new model has learnt";
      words.textContent = `Class: ${nameOf(tile)}, ${which}. Of its class are, among the five nearest: ${said.join("; ")}.`;
    }

    buttons.forEach((button, i) => button.addEventListener("click", () => show(i)));
    show(mostOrdinary(hits));
  }

  compatkitExported.define("compatkit-search", build, ({ dataset }) => ["compatkitSearches", dataset.set ?? "shapes"]);
})();
