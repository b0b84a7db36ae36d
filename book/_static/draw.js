// @ts-check
// <div class="compatkit-draw" data-method="independent" data-split="stage2">: draw a digit, and four networks say what it
// is.

(() => {
  "use strict";

  const { make, percent } = compatkitExported;

  /**
   * @typedef {[number, number]} Point in 0..1, from the top left
   * @typedef {Point[][]} Drawing strokes
   * @typedef {{ digit: HTMLElement, share: HTMLElement, bars: HTMLElement[], note: HTMLElement }} Panel
   */

  /** What to expect of each method; all of them on offer are here. */
  /** @type {Record<string, string>} */
  const METHODS = {
    independent:
      "Trained apart. Nothing ties the features of one network to those of the other, so a recombined one is right about as " +
      "often as chance or less, and often wrong with confidence.",
    IIW:
      "Identical initial weights: both start from the same numbers and are then trained apart. Their parts fit in part; after " +
      "stage 3 nearly always, because both sets number the digits alike.",
    RP: "Rotation prediction: one head, shared by both, also learns by how much an image was turned.",
    DCC:
      "Discriminating common classes: one head, shared by both, tells the common classes apart from the features after " +
      "stage 2. There the parts mostly fit. Move the split away from it, and they do not.",
    "IIW+DCC":
      "The same initial weights, and one shared head for the common classes: the parts fit where they were trained to, " +
      "and at other layers as well.",
    "IIW+RP+DCC":
      "All three: the same initial weights, shared rotation prediction, and a shared head for the common classes.",
  };
  /** Where one network hands over to the other, as `compatkit.models.split` names it. */
  const SPLITS = ["stem", "stage1", "stage2", "stage3"]; // pooling has no weights: after it all is as before it
  const TRAINED_SPLIT = "stage2";

  /** One way to write each digit: strokes of points in per cent of a square. */
  const DIGITS = [
    [[50, 8, 30, 14, 20, 34, 18, 56, 24, 80, 42, 92, 60, 90, 76, 74, 81, 50, 76, 26, 64, 11, 50, 8]],
    [[38, 22, 46, 16, 54, 8, 54, 8, 53, 50, 52, 92]],
    [[22, 28, 28, 13, 46, 7, 64, 12, 72, 28, 66, 46, 46, 66, 22, 88, 22, 88, 48, 86, 80, 89]],
    [[24, 16, 44, 7, 66, 12, 72, 28, 62, 42, 44, 47, 44, 47, 66, 51, 76, 68, 66, 86, 44, 93, 22, 85]],
    [
      [58, 8, 40, 34, 20, 62, 20, 62, 50, 61, 82, 60],
      [64, 36, 63, 64, 62, 92],
    ],
    [[74, 9, 50, 9, 32, 10, 32, 10, 30, 28, 27, 46, 27, 46, 50, 41, 70, 48, 76, 66, 66, 86, 44, 92, 24, 84]],
    [[64, 8, 44, 22, 29, 46, 25, 70, 34, 88, 52, 93, 70, 84, 73, 66, 60, 54, 42, 56, 28, 68]],
    [[20, 12, 48, 12, 78, 10, 78, 10, 62, 46, 44, 92]],
    [[66, 20, 50, 8, 32, 16, 32, 34, 50, 47, 68, 60, 72, 80, 54, 93, 34, 88, 28, 70, 42, 54, 62, 38, 68, 22, 62, 13]],
    [[70, 26, 56, 9, 36, 12, 27, 30, 38, 46, 56, 44, 69, 28, 70, 26, 70, 26, 69, 58, 62, 93]],
  ];
  /** Other hands: how far the top leans to the right, how wide the digit is, and how far it is turned, in radians. */
  const HANDS = [
    [0, 1, 0],
    [0.25, 0.85, 0],
    [-0.12, 1.15, 0.1],
    [0.1, 0.7, -0.12],
    [0.35, 1, 0.05],
  ];
  /** The hands in which each digit is an example: those that, as trained, both networks of every method read right. */
  const READ = [
    [0, 1, 2, 3],
    [0, 2, 3],
    [0, 1, 2, 3, 4],
    [0, 1, 2, 3],
    [0, 1, 2, 3, 4],
    [0, 1, 2, 3, 4],
    [0, 2],
    [0, 1, 2, 3, 4],
    [1, 3],
    [0, 1, 2, 3, 4],
  ];
  const FIRST = 5; // the digit that stands there at first: recombined from independent networks, two say something else

  const PEN = 0.085; // width of a line on the canvas, of its side
  // Digits are scanned on 8 x 8 pixels and MNIST's on 20 x 20: something between, with lines so wide that the mean of the
  // pixels (0.40 of white) is between theirs as well.
  const WRITING = 14;
  const LINE = 2.1;
  const FINER = 6; // drawn so many times finer, and averaged

  /**
   * @param {number} digit
   * @param {number} turns how often it was written before, each time in another hand
   * @returns {Drawing}
   */
  function written(digit, turns) {
    const [lean, wide, turn] = HANDS[READ[digit][turns % READ[digit].length]];
    return DIGITS[digit].map((numbers) => {
      /** @type {Point[]} */
      const stroke = [];
      for (let i = 0; i < numbers.length; i += 2) {
        const y = numbers[i + 1] / 100 - 0.5;
        const x = (numbers[i] / 100 - 0.5) * wide - lean * y;
        stroke.push([0.5 + x * Math.cos(turn) - y * Math.sin(turn), 0.5 + x * Math.sin(turn) + y * Math.cos(turn)]);
      }
      return stroke;
    });
  }

  /**
   * Draws strokes as smooth lines; a point that comes twice is a corner.
   * @param {CanvasRenderingContext2D} context
   * @param {Drawing} drawing
   * @param {number} width
   */
  function trace(context, drawing, width) {
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = width;
    for (const stroke of drawing) {
      context.beginPath();
      context.moveTo(...stroke[0]);
      for (let i = 0; i < stroke.length; i++) {
        const [x, y] = stroke[i];
        const [nextX, nextY] = stroke[Math.min(i + 1, stroke.length - 1)];
        context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
      }
      const [x, y] = stroke[stroke.length - 1];
      context.lineTo(x + 1e-3, y); // a bit further, or a dot would have no length and not be drawn
      context.stroke();
    }
  }

  /**
   * The drawing as an image of the sets: first as large and as bold as they are written there, then cut to its box
   * and stretched.
   * @param {Drawing} drawing
   * @param {number} size side of the result
   */
  function picture(drawing, size) {
    const xs = drawing.flat().map(([x]) => x);
    const ys = drawing.flat().map(([, y]) => y);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const scale = (WRITING - LINE) / Math.max(right - left, bottom - top, 0.01);
    const side = WRITING + 8;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side * FINER;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
    context.scale(FINER, FINER);
    context.translate(side / 2, side / 2);
    const centred = drawing.map((stroke) =>
      stroke.map(
        ([x, y]) => /** @type {Point} */ ([(x - (left + right) / 2) * scale, (y - (top + bottom) / 2) * scale]),
      ),
    );
    trace(context, centred, LINE);
    const ink = context.getImageData(0, 0, side * FINER, side * FINER).data;
    const image = new Float32Array(side * side);
    for (let y = 0; y < side * FINER; y++) {
      for (let x = 0; x < side * FINER; x++) {
        const pixel = Math.floor(y / FINER) * side + Math.floor(x / FINER);
        image[pixel] += ink[4 * (y * side * FINER + x) + 3] / FINER ** 2;
      }
    }
    return compatkitNet.stretched(image.map(Math.round), side, size);
  }

  /**
   * The probabilities of the outputs that compete; 0 for the others.
   * @param {ArrayLike<number>} logits
   * @param {number[]} outputs
   */
  function probabilities(logits, outputs) {
    const largest = Math.max(...outputs.map((i) => logits[i]));
    const weights = Array.from(logits, (logit, i) => (outputs.includes(i) ? Math.exp(logit - largest) : 0));
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((weight) => weight / sum);
  }

  /** @param {string} split */
  const spoken = (split) => split.replace("stage", "stage ");

  /**
   * @param {string} extractor
   * @param {string} head
   * @param {number} classes
   * @returns {[HTMLElement, Panel]}
   */
  function panel(extractor, head, classes) {
    const whole = extractor === head;
    const digit = make("span", { class: "digit" }, "–");
    const share = make("span", { class: "share" });
    const note = make("span", { class: "note" });
    const bars = Array.from({ length: classes }, (_, i) =>
      make("span", { class: "bar" }, make("i"), make("b", {}, `${i}`)),
    );
    const title = make(
      "span",
      { class: "title" },
      make("b", {}, `extractor ${extractor},`),
      " ",
      make("b", {}, `head ${head}`),
    );
    const tag = make("span", { class: "tag" }, whole ? "as trained" : "recombined");
    const chart = make("div", { class: "bars", "aria-hidden": "true" }, ...bars);
    const answer = make("div", { class: "answer" }, digit, share);
    const attributes = {
      class: whole ? "panel" : "panel recombined",
      role: "group",
      "aria-label": title.textContent ?? "",
    };
    const element = make("div", attributes, title, tag, answer, chart, note);
    return [element, { digit, share, bars, note }];
  }

  let groups = 0;

  /** @param {HTMLElement} root */
  function build(root) {
    const { method: firstMethod = "independent", split: firstSplit = TRAINED_SPLIT } = root.dataset;
    for (const [name, value, known] of /** @type {[string, string, string[]][]} */ ([
      ["data-method", firstMethod, Object.keys(METHODS)],
      ["data-split", firstSplit, SPLITS],
    ])) {
      if (!known.includes(value)) throw new Error(`${name}: must be one of ${known.join(", ")}, got ${value}`);
    }
    let method = firstMethod;
    let split = firstSplit;
    let own = false; // whether the reader has drawn what is on the canvas
    let drawing = written(FIRST, 0);
    const turns = DIGITS.map((_, digit) => (digit === FIRST ? 1 : 0)); // how often each digit has been written

    const canvas = make("canvas", { width: "448", height: "448", role: "img", "aria-label": `a drawn ${FIRST}` });
    const paper = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const seen = make("canvas", { class: "seen", width: "16", height: "16", "aria-hidden": "true" });
    const clear = make("button", { type: "button", class: "clear" }, "Clear");
    const examples = DIGITS.map((_, digit) =>
      make("button", { type: "button", "aria-label": `write a ${digit}` }, `${digit}`),
    );
    const group = `compatkit-draw-${groups++}`;
    const radios = Object.keys(METHODS).map((name) => {
      const input = make("input", { type: "radio", name: group, value: name });
      input.checked = name === method;
      return input;
    });
    const slider = make("input", { type: "range", min: "0", max: `${SPLITS.length - 1}`, "aria-label": "split after" });
    slider.value = `${SPLITS.indexOf(split)}`;
    const place = make("span", { class: "place" });
    const ticks = make(
      "span",
      { class: "ticks", "aria-hidden": "true" },
      ...SPLITS.map((name) => make("span", {}, spoken(name))),
    );
    const expectation = make("p", { class: "expectation" });
    const measured = make("p", { class: "measured" });
    const words = make("p", { class: "words", "aria-live": "polite" });
    const pairs = ["aa", "ab", "ba", "bb"];
    const panels = pairs.map(([extractor, head]) => panel(extractor, head, DIGITS.length));

    root.replaceChildren(
      make("div", { class: "input" }, make("b", {}, "Draw a digit, or press one"), canvas),
      make("div", { class: "answers" }, ...panels.map(([element]) => element)),
      make(
        "div",
        { class: "tools" },
        make("div", { class: "below" }, clear, make("span", { class: "sees" }, "they see ", seen)),
        make("div", { class: "examples", role: "group", "aria-label": "examples" }, ...examples),
      ),
      make(
        "div",
        { class: "choices" },
        make(
          "fieldset",
          {},
          make("legend", {}, "Method"),
          ...radios.map((input) => make("label", {}, input, make("span", {}, input.value))),
        ),
        make("label", { class: "split" }, make("b", {}, "Split after ", place), slider, ticks),
        expectation,
      ),
      words,
      measured,
    );

    /** @type {Networks | null} */
    let networks = null;

    function fetchNetworks() {
      const wanted = method;
      networks = null;
      root.setAttribute("aria-busy", "true");
      compatkitNet.load(wanted).then(
        (loaded) => {
          if (wanted !== method) return;
          networks = loaded;
          root.removeAttribute("aria-busy");
          show(true);
        },
        (error) => {
          if (wanted !== method) return;
          root.removeAttribute("aria-busy");
          forget(error.message);
        },
      );
    }

    /** @param {string} message in place of the answers */
    function forget(message) {
      for (const [, { digit, share, bars }] of panels) {
        digit.textContent = "–";
        share.textContent = "";
        for (const bar of bars) bar.style.setProperty("--share", "0");
      }
      words.textContent = message;
    }

    /** @param {boolean} settled nothing is being drawn: say it in words as well */
    function show(settled) {
      paper.clearRect(0, 0, canvas.width, canvas.height);
      paper.save();
      paper.scale(canvas.width, canvas.height);
      trace(paper, drawing, PEN);
      paper.restore();
      place.textContent = spoken(split) + (split === TRAINED_SPLIT ? ", as in training" : "");
      slider.setAttribute("aria-valuetext", spoken(split));
      expectation.textContent = METHODS[method];
      const image = drawing.length ? picture(drawing, seen.width) : new Uint8Array(seen.width ** 2);
      showSeen(image);
      if (!networks) return;
      const shown = networks;
      const used = pairs.map(
        ([extractor, head]) =>
          /** @type {Combination} */ (
            shown.file.combinations.find(
              (c) => c.extractor === extractor && c.head === head && (c.split === null || isAfter(c.split, split)),
            )
          ),
      );
      showMeasured(shown.file, used);
      if (!drawing.length) return forget("Draw a digit, or press one of the ten.");
      const found = used.map((combination, i) => {
        const { classes } = shown.file.networks[combination.head];
        const shares = probabilities(compatkitNet.logits(shown, combination, image), combination.outputs);
        const best = shares.indexOf(Math.max(...shares));
        const { digit, share, bars } = panels[i][1];
        digit.textContent = classes[best];
        share.textContent = percent(shares[best]);
        bars.forEach((bar, output) => {
          bar.style.setProperty("--share", `${shares[output]}`);
          bar.classList.toggle("best", output === best);
          bar.classList.toggle("unknown", !combination.outputs.includes(output));
        });
        return { says: classes[best], share: shares[best] };
      });
      if (settled) words.textContent = inWords(found, unsharedClasses(shown.file, used));
    }

    /**
     * @param {{ says: string, share: number }[]} found
     * @param {string[]} unshared
     */
    function inWords(found, unshared) {
      const list = found.map(({ says, share }, i) => `${pairs[i][0]}-${pairs[i][1]} says ${says} (${percent(share)})`);
      return `${list.join(", ")}. ${verdict(
        found.map(({ says }) => says),
        unshared,
      )}`;
    }

    /**
     * @param {string[]} answers
     * @param {string[]} unshared
     */
    function verdict([aa, ab, ba, bb], unshared) {
      if (unshared.includes(aa) || unshared.includes(bb))
        return `Recombined networks cannot say ${unshared.join(", ")}: it stands for the class that two tasks do not share.`;
      if (aa !== bb) return "The two networks disagree even before the swap.";
      const others = [ab, ba].filter((answer) => answer !== aa).length;
      return [
        "All four agree.",
        "Recombined, one of them says something else.",
        "Recombined, both say something else.",
      ][others];
    }

    /**
     * @param {NetworkFile} file
     * @param {Combination[]} used
     */
    function showMeasured(file, used) {
      used.forEach(({ accuracy, images }, i) => {
        panels[i][1].note.textContent = `right on ${percent(accuracy, 1)} of ${images} test images`;
      });
      const { a, b } = file.networks;
      const chance = percent(1 / used[1].outputs.length, 1);
      const recorded = [used[1], used[2]].map((c) => (c.recorded === null ? "nothing" : percent(c.recorded, 1)));
      measured.textContent =
        `What you draw is no test image, and neither are the ten examples: strokes, in hands that both networks of every ` +
        `method read right before the swap. Network a learnt ${a.set}, network b ${b.set}. ${unsharedClasses(file, used).join(", ")} is not shared between ` +
        `them: recombined networks choose among the other classes, where chance is ${chance}. Test images are of the ` +
        `extractor's set. These networks are the run of Fig. 2 with seed ${file.seed}, trained again for this page ` +
        `on another kind of processor, which rounds differently; its ` +
        `record has ${recorded[0]} (a-b) and ${recorded[1]} (b-a).`;
    }

    /**
     * @param {NetworkFile} file
     * @param {Combination[]} used
     */
    function unsharedClasses(file, used) {
      return file.networks[used[1].head].classes.filter((_, output) => !used[1].outputs.includes(output));
    }

    /** @param {Uint8Array} image */
    function showSeen(image) {
      const context = /** @type {CanvasRenderingContext2D} */ (seen.getContext("2d"));
      const pixels = context.createImageData(seen.width, seen.height);
      image.forEach((value, i) => pixels.data.set([value, value, value, 255], 4 * i));
      context.putImageData(pixels, 0, 0);
    }

    let frame = 0;
    /** Once a frame, however many points a pen sends. */
    function showSoon() {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => show(false));
    }

    /**
     * @param {Drawing} strokes
     * @param {string} name
     */
    function take(strokes, name) {
      drawing = strokes;
      own = false;
      canvas.setAttribute("aria-label", name);
      show(true);
    }

    /**
     * @param {PointerEvent} event
     * @returns {Point}
     */
    function point(event) {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    }

    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      drawing = own ? [...drawing, [point(event)]] : [[point(event)]]; // an example makes room
      own = true;
      canvas.setAttribute("aria-label", "your drawing");
      showSoon();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const events = event.getCoalescedEvents();
      drawing[drawing.length - 1].push(...(events.length ? events : [event]).map(point));
      showSoon();
    });
    canvas.addEventListener("lostpointercapture", () => {
      cancelAnimationFrame(frame);
      show(true);
    });
    clear.addEventListener("click", () => take([], "empty paper"));
    examples.forEach((button, digit) =>
      button.addEventListener("click", () => take(written(digit, turns[digit]++), `a drawn ${digit}`)),
    );
    radios.forEach((radio) =>
      radio.addEventListener("change", () => {
        method = radio.value;
        show(false);
        fetchNetworks();
      }),
    );
    slider.addEventListener("input", () => {
      split = SPLITS[Number(slider.value)];
      show(true);
    });

    show(false);
    compatkitExported.whenNear(root, fetchNetworks); // 400 KB
  }

  /**
   * @param {string} block
   * @param {string} split
   */
  const isAfter = (block, split) => block === split || block.startsWith(`${split}_block`);

  for (const root of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".compatkit-draw"))) {
    try {
      build(root);
    } catch (error) {
      root.textContent = `${error}`;
      throw error;
    }
  }
})();
