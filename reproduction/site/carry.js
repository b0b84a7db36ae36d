// @ts-check
// <div class="compatkit-carry">: a gallery of 300 pictures is carried from an old model into the space of a new one.

(() => {
  "use strict";

  const { bytes, define, state } = compatkitExported;
  const { button, make, meters, motion, percent, radios, slid, slider, tile } = compatkitElements;
  const { ridge, applied } = compatkitRidge;

  /**
   * @typedef {{ classes: string[], labels: number[], pair_labels: number[], sprite: string, columns: number,
   *   side: number, tables: { name: string, pairs: boolean, scale: number[], offset: number[] }[],
   *   recorded: Record<string, Record<string, number | null>>, count: number, bytes: string }} Gallery
   *   as documented in reproduction/runs/export/gallery.py
   * @typedef {{ items: Table, pairs: Table | null }} Embedded
   * @typedef {{ points: Table, query: Table, plane: number[][], score: number }} Stage
   */

  const OLD = /** @type {const} */ (["colour", "shape"]);
  const SIDES = /** @type {const} */ ([
    ["none", "nothing"],
    ["autoencoder", "autoencoder"],
    ["SimCLR", "SimCLR"],
    ["colour", "the true colour"],
    ["shape", "the true shape"],
  ]);
  const MAPS = /** @type {const} */ ([
    ["ridge", "linear (ridge)"],
    ["h", "network (h)"],
  ]);
  const PAIRS = [20, 40, 80, 160, 320, 640];
  const STAGES = ["today", "new model, old vectors", "carried over", "embedded anew"];
  const FOUND = 5;
  const DEFAULTS = { old: "colour", side: "none", pairs: 640, map: "ridge" };
  const DOT = 17; // px of a picture in the plane, of 640

  // --- numbers -------------------------------------------------------------------------------------------------------

  /** @param {Gallery} gallery @returns {Map<string, Embedded>} */
  function unpacked(gallery) {
    const packed = bytes(gallery.bytes, gallery.count);
    let at = 0;
    /** @param {number} rows @param {{scale: number[], offset: number[]}} how @returns {Table} */
    const table = (rows, { scale, offset }) => {
      const width = scale.length;
      const data = new Float64Array(rows * width).map((_, i) => packed[at + i] * scale[i % width] + offset[i % width]);
      at += data.length;
      return { rows, width, data };
    };
    const [items, pairs] = [gallery.labels.length, gallery.pair_labels.length];
    /** @type {Map<string, Embedded>} */
    const found = new Map();
    for (const how of gallery.tables)
      found.set(how.name, { items: table(items, how), pairs: how.pairs ? table(pairs, how) : null });
    return found;
  }

  /** The true colour or shape, one number for each that there is. @param {number[]} labels @param {string} side @returns {Table} */
  function truth(labels, side) {
    const data = new Float64Array(10 * labels.length);
    labels.forEach((label, row) => (data[10 * row + (side === "colour" ? Math.floor(label / 10) : label % 10)] = 1));
    return { rows: labels.length, width: 10, data };
  }

  /** @param {Table} left @param {Table | null} right @param {number} rows @returns {Table} */
  function beside(left, right, rows) {
    const width = left.width + (right?.width ?? 0);
    const data = new Float64Array(rows * width);
    for (let row = 0; row < rows; row++) {
      data.set(left.data.subarray(row * left.width, (row + 1) * left.width), row * width);
      if (right) data.set(right.data.subarray(row * right.width, (row + 1) * right.width), row * width + left.width);
    }
    return { rows, width, data };
  }

  /** The two directions in which the means of the classes differ most. @param {Table} x @param {number[]} labels */
  function planeOf(x, labels) {
    const d = x.width;
    /** @type {Map<number, {sum: Float64Array, n: number}>} */
    const means = new Map();
    labels.forEach((label, row) => {
      const mean = means.get(label) ?? { sum: new Float64Array(d), n: 0 };
      for (let i = 0; i < d; i++) mean.sum[i] += x.data[row * d + i];
      mean.n++;
      means.set(label, mean);
    });
    const rows = [...means.values()].map(({ sum, n }) => sum.map((value) => value / n));
    const centre = new Float64Array(d).map((_, i) => rows.reduce((sum, row) => sum + row[i] / rows.length, 0));
    const off = rows.map((row) => row.map((value, i) => value - centre[i]));
    /** @type {number[][]} */
    const found = [];
    for (let axis = 0; axis < 2; axis++) {
      let direction = Array.from({ length: d }, (_, i) => Math.sin(3 * i + axis + 1));
      for (let turn = 0; turn < 100; turn++) {
        const next = new Array(d).fill(0);
        for (const row of off) {
          const along = row.reduce((sum, value, i) => sum + value * direction[i], 0);
          row.forEach((value, i) => (next[i] += along * value));
        }
        for (const other of found) {
          const along = next.reduce((sum, value, i) => sum + value * other[i], 0);
          other.forEach((value, i) => (next[i] -= along * value));
        }
        const length = Math.hypot(...next) || 1;
        direction = next.map((value) => value / length);
      }
      found.push(direction);
    }
    return [...found, Array.from(centre)];
  }

  /** Places of a plane, of which nearly all lie in -1..1; what lies outside stands at the edge. @param {Table} x @param {number[][]} plane @param {number} [reach] */
  function placed(x, [first, second, centre], reach) {
    const along = Array.from({ length: x.rows }, (_, row) =>
      [first, second].map((direction) =>
        direction.reduce((sum, value, i) => sum + value * (x.data[row * x.width + i] - centre[i]), 0),
      ),
    );
    const sizes = along.map(([u, v]) => Math.max(Math.abs(u), Math.abs(v))).sort((p, q) => p - q);
    const wide = reach ?? 1.05 * sizes[Math.floor(0.98 * sizes.length)];
    const places = along.map((place) => place.map((value) => Math.min(1, Math.max(-1, value / wide))));
    return { places, wide };
  }

  /** The items nearest to a query, nearest first, itself left out. @param {Omit<Stage, "score">} stage @param {number} item @param {number} count */
  function nearest({ query, points }, item, count) {
    const d = points.width;
    const distances = new Float64Array(points.rows);
    for (let row = 0; row < points.rows; row++) {
      let sum = 0;
      for (let i = 0; i < d; i++) sum += (points.data[row * d + i] - query.data[item * d + i]) ** 2;
      distances[row] = sum;
    }
    distances[item] = Infinity;
    /** @type {number[]} */
    const found = [];
    for (let k = 0; k < count; k++) {
      let best = -1;
      for (let row = 0; row < points.rows; row++) {
        if (!found.includes(row) && (best < 0 || distances[row] < distances[best])) best = row;
      }
      found.push(best);
    }
    return found;
  }

  /** The share of items that, as a query, find one of their class first. @param {Omit<Stage, "score">} stage @param {number[]} labels */
  const firstRight = (stage, labels) =>
    labels.filter((label, item) => labels[nearest(stage, item, 1)[0]] === label).length / labels.length;

  /** How many of the five nearest to an item are of its class. @param {Omit<Stage, "score">} stage @param {number[]} labels @param {number} item */
  const hitsOf = (stage, labels, item) => nearest(stage, item, FOUND).filter((i) => labels[i] === labels[item]).length;

  /** The item whose five nearest come closest to the scores of all stages. @param {Stage[]} stages @param {number[]} labels */
  function typical(stages, labels) {
    const off = labels.map((_, item) =>
      stages.reduce((sum, stage) => sum + Math.abs(hitsOf(stage, labels, item) / FOUND - stage.score), 0),
    );
    return off.indexOf(Math.min(...off));
  }

  /** @param {readonly string[]} texts @param {(text: string, i: number) => string} [value] @returns {[string, string][]} */
  const pairsOf = (texts, value = (text) => text) => texts.map((text, i) => [value(text, i), text]);

  // --- the program ---------------------------------------------------------------------------------------------------

  /** @param {HTMLElement} root @param {Gallery} gallery */
  function build(root, gallery) {
    const address = state("carry");
    const tables = unpacked(gallery);
    const { labels } = gallery;
    const setting = { ...DEFAULTS };
    const [old, side, pairs, map] = (address.read() ?? "").split("-");
    if (OLD.some((name) => name === old)) setting.old = old;
    if (SIDES.some(([name]) => name === side)) setting.side = side;
    if (PAIRS.includes(Number(pairs))) setting.pairs = Number(pairs);
    if (map === "h") setting.map = map;

    const fresh = /** @type {Embedded} */ (tables.get("new"));
    const newPlane = planeOf(fresh.items, labels);
    const anew = placed(fresh.items, newPlane);
    const flying = motion(900);
    let item = -1;
    let stage = 0;
    let later = 0;
    /** @type {Stage[]} */
    let stages = [];
    /** @type {number[][]} */
    let shown = [];
    /** @type {number[]} */
    let found = [];

    /** What was stored beside. @param {"items" | "pairs"} part */
    function stored(part) {
      if (setting.side === "none") return null;
      const own = tables.get(setting.side);
      const isTrue = setting.side === "colour" || setting.side === "shape";
      if (isTrue) return truth(part === "items" ? labels : gallery.pair_labels, setting.side);
      return own?.[part] ?? null;
    }

    function carried() {
      const before = /** @type {Embedded} */ (tables.get(setting.old));
      if (setting.map === "h") {
        return /** @type {Embedded} */ (tables.get(`${setting.old} / ${setting.side}`)).items;
      }
      const n = setting.pairs;
      const seen = beside(/** @type {Table} */ (before.pairs), stored("pairs"), n);
      const wanted = beside(/** @type {Table} */ (fresh.pairs), null, n);
      return applied(beside(before.items, stored("items"), labels.length), ridge(seen, wanted));
    }

    /** @param {Omit<Stage, "score">} stage @returns {Stage} */
    const scored = (stage) => ({ ...stage, score: firstRight(stage, labels) });
    const last = scored({ points: fresh.items, query: fresh.items, plane: newPlane });
    /** @type {Map<string, {today: Stage, unmapped: Stage}>} */
    const known = new Map();
    /** The two stages before the map. @param {string} name of what the old model learnt */
    function before(name) {
      const { items } = /** @type {Embedded} */ (tables.get(name));
      const made = known.get(name) ?? {
        today: scored({ points: items, query: items, plane: planeOf(items, labels) }),
        unmapped: scored({ points: items, query: fresh.items, plane: newPlane }),
      };
      known.set(name, made);
      return made;
    }

    const canvas = make("canvas", { width: "640", height: "640", role: "img" });
    const paper = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const pictures = make("img", { alt: "" });
    const stageRadios = radios(
      "stages",
      "Where the gallery lies",
      pairsOf(STAGES, (_, i) => `${i}`),
      "0",
      (value) => {
        clearTimeout(later);
        go(Number(value));
      },
    );
    const play = button("A new model arrives", "play", () => {
      clearTimeout(later);
      go(1);
      later = setTimeout(() => go(2), matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 2200);
    });
    const names = [...new Set(labels)];
    const options = names.map((label) =>
      make("option", { value: `${labels.indexOf(label)}` }, [gallery.classes[label]]),
    );
    const select = make("select", { "aria-label": "query" }, options);
    const count = make("b");
    const amount = slider("pictures to fit the map on", 0, PAIRS.length - 1, (i) => renew({ pairs: PAIRS[i] }));
    amount.value = `${PAIRS.indexOf(setting.pairs)}`;
    const query = make("span");
    const finds = make("div", { class: "found" });
    const words = make("p", { class: "words", "aria-live": "polite" });
    const measured = make("p", { class: "measured" });
    const bars = ["today", "on old vectors", "carried over", "embedded anew"];
    const scores = meters("How often the nearest is of the same class", bars);
    const key = ["query", "found, of its class", "found, of another", "where the new model puts its class"];

    root.replaceChildren(
      make("div", { class: "choices" }, [
        radios("old", "The old model learnt", pairsOf(OLD), setting.old, (value) => renew({ old: value })),
        radios("side", "Stored beside its vectors", SIDES, setting.side, (value) => renew({ side: value })),
        radios("map", "Map from old to new", MAPS, setting.map, (value) => renew({ map: value })),
        slid("pictures to fit it on:", count, amount),
      ]),
      make("div", { class: "plane" }, [
        canvas,
        make(
          "p",
          { class: "legend" },
          key.map((text, i) => make("span", {}, [make("i", { class: ["query", "hit", "miss", "home"][i] }), text])),
        ),
      ]),
      make("div", { class: "search" }, [
        play,
        stageRadios,
        make("label", { class: "query" }, [make("span", {}, ["Query, or press a picture: "]), query, select]),
        finds,
        scores.element,
      ]),
      words,
      measured,
    );

    /** @param {Partial<typeof DEFAULTS>} changes */
    function renew(changes) {
      Object.assign(setting, changes);
      const map = { points: carried(), query: fresh.items, plane: newPlane };
      const { today, unmapped } = before(setting.old);
      stages = [today, unmapped, scored(map), last];
      if (item < 0) item = typical(stages, labels);
      scores.show(stages.map(({ score }) => score));
      count.textContent = setting.map === "h" ? "all 10 000" : `${setting.pairs}`;
      amount.disabled = setting.map === "h";
      amount.setAttribute("aria-valuetext", `${setting.pairs}`);
      const key = `${setting.old} / ${setting.side}`;
      const trait = (/** @type {number} */ label) => (setting.old === "colour" ? Math.floor(label / 10) : label % 10);
      const record = gallery.recorded[key];
      /** @param {string} name */
      const value = (name) => (record[name] === null ? "–" : percent(/** @type {number} */ (record[name])));
      const ridged = setting.side === "none" ? "new/ridge(old)" : "new/ridge(old, side)";
      const alone = labels.map((label) => {
        const alike = labels.filter((other) => trait(other) === trait(label)).length;
        return (labels.filter((other) => other === label).length - 1) / (alike - 1);
      });
      const ceiling = alone.reduce((sum, share) => sum + share, 0) / labels.length;
      measured.textContent =
        `The first query is the picture whose five finds come nearest to these scores. The plane shows two of the 32 ` +
        `dimensions that are searched. Knowing the ${setting.old} alone finds ${percent(ceiling)}. In the larger runs of ` +
        `this book (2\u00a0000 pictures, 100 classes): today ${value("old/old")}, on old vectors ` +
        `${value("new/identity(old)")}, carried over by the linear map ${value(ridged)}, by the network ` +
        `${value("new/h")}, embedded anew ${value("new/new")}.`;
      const chosen = [setting.old, setting.side, setting.pairs, setting.map].join("-");
      address.write(chosen === Object.values(DEFAULTS).join("-") ? null : chosen);
      go(stage);
    }

    /** Where everything lies at a stage. @param {number} which */
    const target = (which) => placed(stages[which].points, stages[which].plane, which ? anew.wide : undefined).places;

    /** @param {number} next */
    function go(next) {
      stage = next;
      const box = /** @type {HTMLInputElement} */ (stageRadios.querySelector(`[value="${stage}"]`));
      box.checked = true;
      const [from, to] = [shown.length ? shown : target(stage), target(stage)];
      found = nearest(stages[stage], item, FOUND);
      say();
      flying((done) => {
        const eased = done < 0.5 ? 2 * done * done : 1 - 2 * (1 - done) ** 2;
        shown = from.map((place, i) => place.map((value, axis) => value + (to[i][axis] - value) * eased));
        draw();
      });
    }

    /** @param {number[]} place */
    const pixel = ([u, v]) => [canvas.width * (0.5 + 0.47 * u), canvas.height * (0.5 - 0.47 * v)];

    function draw() {
      if (!pictures.complete) return;
      const css = getComputedStyle(root);
      const colour = (/** @type {string} */ name) => css.getPropertyValue(name).trim();
      paper.clearRect(0, 0, canvas.width, canvas.height);
      const size = DOT;
      const at = shown.map(pixel);
      if (stage > 0) {
        paper.strokeStyle = colour("--good");
        paper.lineWidth = 2;
        paper.globalAlpha = 0.7;
        anew.places.forEach((place, i) => {
          if (labels[i] !== labels[item]) return;
          const [x, y] = pixel(place);
          paper.beginPath();
          paper.arc(x, y, 0.9 * size, 0, 7);
          paper.stroke();
        });
      }
      at.forEach(([x, y], i) => {
        const { side, columns } = gallery;
        paper.globalAlpha = found.includes(i) || i === item ? 1 : 0.8;
        paper.drawImage(
          pictures,
          side * (i % columns),
          side * Math.floor(i / columns),
          side,
          side,
          x - size / 2,
          y - size / 2,
          size,
          size,
        );
      });
      paper.globalAlpha = 1;
      for (const i of [...found, item]) {
        const [x, y] = at[i];
        paper.lineWidth = i === item ? 5 : 3.5;
        paper.strokeStyle =
          i === item ? colour("--accent") : labels[i] === labels[item] ? colour("--good") : colour("--focus");
        paper.strokeRect(x - size / 2 - 2, y - size / 2 - 2, size + 4, size + 4);
      }
    }

    /** What is found, in pictures and in words. */
    function say() {
      query.replaceChildren(tile(gallery, item));
      const named = (/** @type {number} */ i) => gallery.classes[labels[i]];
      finds.replaceChildren(...found.map((i) => tile(gallery, i, named(i), labels[i] === labels[item])));
      const hits = hitsOf(stages[stage], labels, item);
      const side = SIDES.find(([name]) => name === setting.side)?.[1];
      const where = [
        `Today the old model, which learnt ${setting.old} alone, searches its own vectors`,
        "The new model searches vectors of the old one, which mean nothing to it",
        `The new model searches what ${setting.map} made of the old vectors and ${side} beside them`,
        "The new model searches pictures that it has embedded anew",
      ][stage];
      words.textContent = `${where}: ${hits} of the five nearest to this ${gallery.classes[labels[item]]} are of its class.`;
      canvas.setAttribute("aria-label", `${labels.length} pictures as points, ${STAGES[stage]}.`);
      select.value = `${labels.indexOf(labels[item])}`;
    }

    select.addEventListener("change", () => {
      item = Number(select.value);
      go(stage);
    });
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top].map(
        (value) => (value * canvas.width) / box.width,
      );
      const distances = shown.map(pixel).map(([u, v]) => Math.hypot(u - x, v - y));
      item = distances.indexOf(Math.min(...distances));
      go(stage);
    });
    pictures.addEventListener("load", draw);
    pictures.src = gallery.sprite;
    new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    renew({});
  }

  define("compatkit-carry", build, () => ["compatkitGallery", "gallery"]);
})();
