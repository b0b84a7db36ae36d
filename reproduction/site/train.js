// @ts-check
// <div class="compatkit-train">: two networks learn before the reader's eyes, and their four combinations are tested all
// along. They learn in a worker, so that the page stays responsive.

(() => {
  "use strict";

  const { bytes, define, state } = compatkitExported;
  const { apart, best, button, make, option, percent, slid, slider, svg } = compatkitElements;

  /**
   * @typedef {{ seed: number, accuracies: number[], curve: number[][] }} Run curve: [step, aa, ab, ba, bb]
   * @typedef {{ key: string, name: string, method: string, runs: Run[] }} Tried a setting, under all its seeds
   */

  const PAIRS = ["aa", "ab", "ba", "bb"];
  const STEPS = 200;
  const DEFAULTS = { start: false, classes: false, rotation: false, shared: 9, width: 16, seed: 0, given: false };
  const SWITCHES = /** @type {const} */ ([
    ["start", "same start (IIW)", "both begin from the same weights"],
    ["classes", "shared class head (DCC)", "one more head tells the common classes apart, for both"],
    ["rotation", "shared rotation head (RP)", "one more head tells by how much an image is turned, for both"],
  ]);
  const WIDTHS = [4, 8, 16, 32];
  const FIRST = 3; // the digit that is read at first
  /** Student's t at 97.5 %, by degrees of freedom. */
  const STUDENT = [NaN, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

  /** What runs in the worker. @param {ReturnType<typeof compatkitTraining>} training */
  function work(training) {
    const EVERY = 5; // steps from one test to the next
    /** @type {Data} */
    let data;
    /** @type {Pair} */
    let pair;
    let running = false;
    let turn = 0;
    /** @type {number[] | null} */
    let pixels = null;
    /** @type {number[]} */
    let accuracies = [];

    function report() {
      const { step, setting } = pair;
      const answers = pixels && training.read(pair, pixels);
      const weights = step === setting.steps ? training.weights(pair) : null;
      postMessage({ turn, step, accuracies, answers, weights });
    }

    /** @param {number} steps */
    function advance(steps) {
      for (let i = 0; i < steps && pair.step < pair.setting.steps; i++) training.step(pair);
      accuracies = training.evaluate(pair);
      report();
    }

    function go() {
      if (!running) return;
      advance(EVERY - (pair.step % EVERY));
      running = running && pair.step < pair.setting.steps;
      setTimeout(go); // what the page asks comes between
    }

    onmessage = ({ data: asked }) => {
      if (asked.bytes) data = training.unpacked(asked.header, asked.bytes);
      if (asked.setting) {
        running = false;
        turn = asked.turn;
        pair = training.create(data, asked.setting, asked.weights);
        advance(0);
      }
      if (asked.pixels !== undefined) {
        pixels = asked.pixels;
        report();
      }
      if (asked.run !== undefined) {
        const idle = !running;
        running = asked.run;
        if (running && idle) go();
      }
      if (asked.steps) advance(asked.steps);
    };
  }

  /** @param {any} header @returns {Worker} */
  function worker(header) {
    const source = `"use strict";(${work})((${compatkitTraining})());`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const made = new Worker(address);
    URL.revokeObjectURL(address);
    made.postMessage({ header, bytes: bytes(header.bytes, header.count) });
    return made;
  }

  // --- what a setting is called --------------------------------------------------------------------------------------

  /** @param {Setting} setting */
  const methodOf = ({ start, classes, rotation }) =>
    [start && "IIW", rotation && "RP", classes && "DCC"].filter(Boolean).join("+") || "independent";

  /** @param {Setting} setting */
  function nameOf(setting) {
    const classes = setting.classes && setting.shared !== DEFAULTS.shared ? `, ${setting.shared} classes` : "";
    const width = setting.width !== DEFAULTS.width ? `, ${setting.width} channels` : "";
    return methodOf(setting) + classes + width + (setting.given ? ", from Python" : "");
  }

  /** The mean of both recombined networks. @param {Run} run */
  const recombined = ({ accuracies: [, ab, ba] }) => (ab + ba) / 2;

  /** @param {number[]} values */
  function interval(values) {
    const n = values.length;
    const mean = values.reduce((sum, value) => sum + value, 0) / n;
    const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1));
    return { mean, half: n < 2 ? 0 : ((STUDENT[n - 1] ?? 2.2) * spread) / Math.sqrt(n) };
  }

  // --- drawings ------------------------------------------------------------------------------------------------------

  /** The two pieces of a network. @param {string} pair */
  function puzzle(pair) {
    const [extractor, head] = pair;
    const left = svg("path", { class: `piece ${extractor}` });
    const right = svg("path", { class: `piece ${head} lighter` });
    const drawn = svg("svg", { viewBox: "0 0 176 46", "aria-hidden": "true" }, [left, right]);
    /** How well they fit, in 0..1. @param {number} fit */
    function move(fit) {
      // What a cuts is a point and what b cuts a block; as they come to fit, both become the same.
      /** @param {string} network */
      const flat = (network) => (network === "a" ? 0 : 9 * (1 - fit));
      /** @param {string} network @param {number} x */
      const edge = (network, x) =>
        `${x} 12L${x + 12} ${23 - flat(network)}L${x + 12} ${23 + flat(network)}L${x} 34L${x} 44`;
      left.setAttribute("d", `M6 2H80L${edge(extractor, 80)}H6Q2 44 2 40V6Q2 2 6 2`);
      right.setAttribute("d", `M80 2L${edge(head, 80)}H150Q154 44 154 40V6Q154 2 150 2Z`);
      right.style.transform = `translateX(${extractor === head ? 0 : 2 + 18 * (1 - fit)}px)`;
    }
    move(0);
    return { drawn, move };
  }

  /** A mark of the book, as looks.py names it. @param {string} mark @param {number} x @param {number} y @param {string} colour */
  function marked(mark, x, y, colour) {
    const [shape, open] = [mark.replace("-open", ""), mark.endsWith("-open")];
    const paths = {
      circle: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
      square: "M-4-4H4V4H-4Z",
      diamond: "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
      "triangle-up": "M0-5L5 4H-5Z",
    };
    const d = paths[/** @type {keyof typeof paths} */ (shape)] ?? paths.circle;
    const look = { fill: open ? "var(--compatkit-ground)" : colour, stroke: colour, "stroke-width": "1.6" };
    return svg("path", { d, transform: `translate(${x} ${y})`, ...look });
  }

  const CHART = { width: 400, height: 284, left: 46, right: 62, top: 12, bottom: 48 };
  /** @param {number} step */
  const across = (step) => CHART.left + ((CHART.width - CHART.left - CHART.right) * step) / STEPS;
  /** @param {number} share */
  const up = (share) => CHART.top + (CHART.height - CHART.top - CHART.bottom) * (1 - share);
  /** @param {number[][]} points of shares over steps */
  const line = (points) => points.map(([step, share], i) => `${i ? "L" : "M"}${across(step)} ${up(share)}`).join("");

  function chart() {
    const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
      svg("path", { class: "grid", d: `M${across(0)} ${up(share)}H${across(STEPS)}` }),
      svg("text", { x: `${CHART.left - 5}`, y: `${up(share) + 4}`, "text-anchor": "end" }, [`${100 * share}`]),
    ]);
    const chance = { class: "soft", x: `${CHART.left - 5}`, y: `${up(1 / 9) + 4}`, "text-anchor": "end" };
    const middle = { x: `${across(STEPS / 2)}`, "text-anchor": "middle" };
    const [title, key] = [`${CHART.height - 20}`, `${CHART.height - 4}`];
    const ghosts = svg("g", { class: "ghosts" });
    const guessed = svg("path", { class: "guessed" });
    const lines = PAIRS.map((pair) => svg("path", { class: `line ${pair}` }));
    const names = PAIRS.map((pair) => svg("text", { class: `name ${pair}`, x: `${across(STEPS) + 5}` }));
    const named = { role: "img", "aria-label": "Accuracy, before training." };
    const drawn = svg("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, ...named }, [
      ...grid,
      svg("path", { class: "chance", d: `M${across(0)} ${up(1 / 9)}H${across(STEPS)}` }),
      svg("text", chance, ["chance"]),
      svg("text", { ...middle, y: title }, [`training step, of ${STEPS}; accuracy in %`]),
      svg("text", { ...middle, y: key, class: "soft" }, ["thick: swapped; dashed: as trained; thin: your runs, mean"]),
      ghosts,
      guessed,
      ...lines,
      ...names,
    ]);
    /** @param {number[][]} curve @param {boolean} named with its accuracies */
    function show(curve, named) {
      const last = curve[curve.length - 1];
      const wanted = last.slice(1).map(up);
      const places = apart(wanted, 13, up(1), up(0));
      PAIRS.forEach((pair, i) => {
        lines[i].setAttribute("d", line(curve.map((row) => [row[0], row[i + 1]])));
        names[i].textContent = named ? `${pair[0]}-${pair[1]} ${Math.round(100 * last[i + 1])}` : "";
        names[i].setAttribute("y", `${places[i] + 4}`);
      });
      const said = PAIRS.map((pair, i) => `${pair[0]}-${pair[1]} ${percent(last[i + 1])}`).join(", ");
      drawn.setAttribute("aria-label", `Accuracy after ${last[0]} of ${STEPS} steps: ${said}.`);
    }
    /** @param {Tried[]} tried @param {Record<string, [string, string]>} looks */
    function haunt(tried, looks) {
      ghosts.replaceChildren(
        ...tried.flatMap(({ method, runs }) =>
          runs.map(({ curve }) =>
            svg("path", { d: line(curve.map(([step, , ab, ba]) => [step, (ab + ba) / 2])), stroke: looks[method][0] }),
          ),
        ),
      );
    }
    /** @param {number | null} share that is guessed */
    const mark = (share) =>
      guessed.setAttribute("d", share === null ? "" : `M${across(0)} ${up(share)}H${across(STEPS)}`);
    return { drawn, show, haunt, mark };
  }

  /**
   * A row for each method, and for each other setting that was tried: a mark for each seed, after two the mean with its
   * interval, and a tick where the runs of the book are.
   * @param {Tried[]} tried @param {any} header @param {number} width
   */
  function results(tried, header, width) {
    const longest = Math.max(14, ...tried.map(({ name }) => name.length));
    const [left, row] = [Math.min(14 + 7 * longest, 0.5 * width), 21];
    /** @param {number} share */
    const x = (share) => left + (width - left - 24) * share;
    const methods = Object.keys(header.looks);
    /** @type {Tried[]} */
    const rows = methods.map(
      (name) => tried.find((each) => each.name === name) ?? { key: name, name, method: name, runs: [] },
    );
    rows.push(...tried.filter(({ name }) => !methods.includes(name)));
    const foot = 12 + row * rows.length;
    const parts = rows.flatMap(({ name, method, runs }, i) => {
      const y = 12 + row * i;
      const [colour, mark] = header.looks[method];
      const values = runs.map(recombined);
      const { mean, half } = interval(values);
      const [low, high] = [Math.max(0, mean - half), Math.min(1, mean + half)];
      const recorded = runs.length && name === method ? header.recorded[method] : null;
      /** @param {number} share @param {Record<string, string>} attributes */
      const tick = (share, attributes) => svg("path", { d: `M${x(share)} ${y - 8}v16`, ...attributes });
      return [
        svg("text", { x: `${left - 12}`, y: `${y + 4}`, "text-anchor": "end", class: runs.length ? "" : "soft" }, [
          name,
        ]),
        svg("path", { class: "grid", d: `M${left} ${y}H${x(1)}` }),
        ...(recorded === null ? [] : [tick(recorded, { class: "recorded" })]),
        ...(runs.length > 1 ? [svg("path", { class: "span", d: `M${x(low)} ${y}H${x(high)}`, stroke: colour })] : []),
        ...values.map((value) => marked(mark, x(value), y, colour)),
        ...(runs.length > 1 ? [tick(mean, { stroke: colour, "stroke-width": "2.5" })] : []),
      ];
    });
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) =>
      svg("text", { x: `${x(share)}`, y: `${foot + 8}`, "text-anchor": "middle" }, [`${100 * share} %`]),
    );
    const drawn = svg("svg", { viewBox: `0 0 ${width} ${foot + 12}`, role: "img" }, [...parts, ...ticks]);
    const said = tried.map(({ name, runs }) => {
      const { mean, half } = interval(runs.map(recombined));
      const spanned = runs.length > 1 ? ` ± ${(100 * half).toFixed(0)}, ${runs.length} seeds` : ", one seed";
      return `${name} ${percent(mean)}${spanned}`;
    });
    drawn.setAttribute("aria-label", `Mean accuracy of a-b and b-a: ${said.join("; ") || "nothing tried yet"}.`);
    return drawn;
  }

  // --- the program ---------------------------------------------------------------------------------------------------

  /** @param {HTMLElement} root @param {any} header */
  function build(root, header) {
    const address = state("train");
    /** @type {Setting} */
    const setting = { ...DEFAULTS, steps: STEPS };
    const [method = "", seed, shared, width] = (address.read() ?? "").split("-");
    for (const [part] of SWITCHES) setting[part] = method.split(".").includes(part);
    if (Number(seed) > 0) setting.seed = Math.floor(Number(seed));
    if (Number(shared) >= 2 && Number(shared) <= 9) setting.shared = Math.floor(Number(shared));
    if (WIDTHS.includes(Number(width))) setting.width = Number(width);

    /** @type {Weights | null} */
    let given = null; // what training begins with, if not with what is drawn
    let turn = 0; // counts beginnings
    /** @type {Map<string, Tried>} */
    const tried = new Map();
    /** @type {number[][]} */
    let curve = [];
    let running = false;
    /** @type {{of: string, share: number} | null} */
    let guess = null; // of a setting, for all its seeds

    const plot = chart();
    const cards = PAIRS.map((pair) => {
      const { drawn, move } = puzzle(pair);
      const digit = make("b", { class: "digit" }, ["–"]);
      const share = make("span", { class: "share" });
      const [extractor, head] = pair;
      const [look, said] = extractor === head ? ["card", " as trained"] : ["card recombined", " swapped"];
      const label = `extractor ${extractor}, head ${head}`;
      const element = make("div", { class: look, role: "group", "aria-label": label }, [
        make("span", { class: "title" }, [make("b", { class: pair }, [`${extractor}-${head}`]), said]),
        drawn,
        make("span", { class: "reads" }, ["reads ", digit, share]),
      ]);
      return { element, move, digit, share };
    });

    const boxes = SWITCHES.map(([part]) => {
      const box = make("input", { type: "checkbox", name: part });
      box.addEventListener("change", () => {
        setting[part] = box.checked;
        renew();
      });
      return box;
    });
    const switches = SWITCHES.map(([, name, hint], i) => {
      const label = option(boxes[i], name);
      label.title = hint;
      return label;
    });
    const sharedValue = make("b");
    const widthValue = make("b");
    const sharedSlider = slider("shared classes", 2, 9, (value) => {
      setting.shared = value;
      renew();
    });
    const widthSlider = slider("channels at the cut", 0, WIDTHS.length - 1, (place) => {
      setting.width = WIDTHS[place];
      renew();
    });

    const play = button("Train", "play", () => (done() ? another() : run(!running)));
    const one = button("Step", "step", () => {
      run(false);
      learner.postMessage({ steps: 1 });
    });
    const reset = button("Reset", "reset", () => renew(given));
    const next = button("Another seed", "next", another);

    const pointer = make("span", { class: "pointer", "aria-hidden": "true" });
    const handle = slider("your guess: where a-b will end", 0, 100, (percent) => {
      guess = { of: nameOf(setting), share: percent / 100 };
      point();
    });
    handle.className = "guess";
    const words = make("p", { class: "words", "aria-live": "polite" });
    const finished = make("div", { class: "finished" });
    const { canvas: paper, clear, examples, image } = compatkitPad.pad(16, FIRST, ask);

    root.replaceChildren(
      make("div", { class: "choices" }, [
        make("fieldset", {}, [make("legend", {}, ["While they learn, they have a"]), ...switches]),
        slid("classes they share:", sharedValue, sharedSlider),
        slid("channels at the cut:", widthValue, widthSlider),
      ]),
      make("div", { class: "chart" }, [plot.drawn, handle, pointer]),
      make("div", { class: "cards" }, [...cards.map(({ element }) => element)]),
      make("div", { class: "buttons" }, [play, one, reset, next]),
      words,
      make("div", { class: "reading" }, [
        make("span", {}, ["They read"]),
        paper,
        make("div", { class: "tools" }, [examples, clear]),
      ]),
      make("div", { class: "tried" }, [
        make("span", {}, ["Your runs: accuracy of the swapped ones, mean of a-b and b-a"]),
        finished,
      ]),
      make("p", { class: "measured" }, [
        `Network a learns ${header.sets[0].name}, network b ${header.sets[1].name}, at 8 × 8 pixels: three convolutions, the ` +
          `cut, one more, ${STEPS} steps of 64 images. A mark is a seed, the bar the 95 % interval of their mean. The grey tick is the mean of ` +
          "the book's larger runs: a ResNet-8, 16 × 16 pixels, 300 steps. Tested on the nine classes that both have, which alone may be chosen.",
      ]),
    );

    const learner = worker(header);
    learner.onmessage = ({ data }) => arrived(data);

    const done = () => curve.length > 0 && curve[curve.length - 1][0] === STEPS;

    /** @param {boolean} wanted */
    function run(wanted) {
      running = wanted;
      learner.postMessage({ run: wanted });
      if (wanted) words.textContent = `${nameOf(setting)}, seed ${setting.seed}: both learn, each its own digits.`;
      label();
    }

    function another() {
      setting.seed++;
      renew();
      run(true);
    }

    function label() {
      SWITCHES.forEach(([part], i) => (boxes[i].checked = setting[part]));
      sharedSlider.value = `${setting.shared}`;
      widthSlider.value = `${WIDTHS.indexOf(setting.width)}`;
      play.textContent = running
        ? "Pause"
        : done()
          ? "Train again, another seed"
          : curve.length > 1
            ? "Go on"
            : "Train";
      next.hidden = done();
      one.disabled = done();
      sharedValue.textContent = `${setting.shared}`;
      widthValue.textContent = `${setting.width}`;
      sharedSlider.disabled = !setting.classes;
      widthSlider.setAttribute("aria-valuetext", `${setting.width}`);
    }

    /** From the start, under the present setting. @param {Weights | null} [weights] to begin with */
    function renew(weights = null) {
      running = false;
      curve = [];
      given = weights;
      setting.given = given !== null;
      turn++;
      learner.postMessage({ turn, setting: { ...setting }, weights });
      const parts = SWITCHES.map(([part]) => part).filter((part) => setting[part]);
      const shown = [parts.join("."), setting.seed, setting.shared, setting.width].join("-");
      address.write(shown === `-0-${DEFAULTS.shared}-${DEFAULTS.width}` ? null : shown);
      label();
      if (guess?.of !== nameOf(setting)) guess = null;
      point();
      const where =
        guess === null
          ? "Drag the mark at the right to the accuracy that a-b, extractor a under head b, will reach"
          : "Your guess stands";
      words.textContent = `${nameOf(setting)}, seed ${setting.seed}. ${where}, then press Train.`;
    }

    /** @param {{turn: number, step: number, accuracies: number[], answers: number[][] | null, weights: any}} news */
    function arrived(news) {
      if (news.turn !== turn) return; // of a run that was left
      const last = curve[curve.length - 1];
      if (!last || last[0] < news.step) curve.push([news.step, ...news.accuracies]);
      plot.show(curve, curve.length > 1 || given !== null);
      label();
      const [aa, , , bb] = news.accuracies;
      const chance = 1 / header.common;
      cards.forEach(({ move, digit, share }, i) => {
        const own = (aa + bb) / 2;
        move(Math.min(1, Math.max(0, (news.accuracies[i] - chance) / Math.max(own - chance, 0.1))));
        const found = news.answers?.[i];
        digit.textContent = found ? `${best(found)}` : "–";
        share.textContent = found ? ` ${percent(Math.max(...found))}` : "";
      });
      if (done() && last && last[0] < STEPS) end(news);
    }

    /** @param {{accuracies: number[], weights: any}} news */
    function end({ accuracies, weights }) {
      running = false;
      const key = nameOf(setting);
      const known = tried.get(key) ?? { key, name: key, method: methodOf(setting), runs: [] };
      known.runs = known.runs.filter(({ seed }) => seed !== setting.seed);
      known.runs.push({ seed: setting.seed, accuracies, curve });
      tried.set(key, known);
      plot.haunt([...tried.values()], header.looks);
      list();
      label();
      const [aa, ab, ba, bb] = accuracies.map((share) => percent(share));
      const { mean, half } = interval(known.runs.map(recombined));
      const several =
        known.runs.length > 1
          ? ` Over ${known.runs.length} seeds the swapped ones reach ${percent(mean)} ± ${(100 * half).toFixed(0)}.`
          : "";
      const guessed = guess && ` You guessed ${percent(guess.share)}: ${off(Math.abs(guess.share - accuracies[1]))}.`;
      words.textContent = `${key}: as trained ${aa} and ${bb}, swapped ${ab} (a-b) and ${ba} (b-a).${guessed ?? ""}${several}`;
      root.dispatchEvent(
        new CustomEvent("compatkit-trained", { detail: { setting: { ...setting }, accuracies, weights } }),
      );
    }

    /** @param {number} distance */
    const off = (distance) => (distance < 0.05 ? "close" : `${Math.round(100 * distance)} points off`);

    /** What is drawn, as the networks see it. */
    function ask() {
      const drawn = image();
      const small = drawn && halved(drawn, 16);
      learner.postMessage({ pixels: small });
    }

    /** Shows where the guess is, if there is one. */
    function point() {
      const share = guess?.share ?? 0.5;
      handle.value = `${100 * share}`;
      plot.mark(guess && share);
      pointer.style.top = `${(100 * up(share)) / CHART.height}%`;
      pointer.textContent = guess ? `guess ${Math.round(100 * share)}` : "your guess?";
    }

    const list = () => finished.replaceChildren(results([...tried.values()], header, finished.clientWidth || 640));
    new ResizeObserver(list).observe(finished);
    renew();

    root.addEventListener("compatkit-given", (event) => {
      const trained = /** @type {CustomEvent<{setting: Setting, weights: Weights}>} */ (event).detail;
      Object.assign(setting, trained.setting, { steps: STEPS });
      renew(trained.weights);
    });
    root.dispatchEvent(new Event("compatkit-built"));
  }

  /** An image of half the side, in 0..1. @param {Uint8Array} image @param {number} side */
  function halved(image, side) {
    const half = side / 2;
    return Array.from({ length: half * half }, (_, i) => {
      const at = 2 * Math.floor(i / half) * side + 2 * (i % half);
      return (image[at] + image[at + 1] + image[at + side] + image[at + side + 1]) / (4 * 255);
    });
  }

  define("compatkit-train", build, () => ["compatkitDigits", "digits"]);
})();
