// @ts-check
// <div class="compatkit-seam">: draw a digit, and see what has to be put between two networks before the head of one
// understands the extractor of the other.

(() => {
  "use strict";

  const { define, load, state, whenNear } = compatkitExported;
  const { best, make, meters, motion, percent, radios, slid, slider, svg } = compatkitElements;

  /**
   * @typedef {{ images: number | null, weight: number | null, bias: number | null, statistics: Record<string, number>,
   *   accuracy: number, recorded: number | null }} SeamStage
   * @typedef {{ method: string, order: number[], correlations: number, stages: SeamStage[], count: number,
   *   numbers: string }} SeamFile as documented in reproduction/runs/export/seams.py
   */

  const METHODS = ["independent", "IIW", "DCC"];
  const CUT = "stage2_block1";
  const FIRST = 5;
  const ROW = 17; // px from one channel to the next
  const TILE = 15;
  const WIDTH = 420;
  const WORDS = [
    "As they are, channel by channel in stored order. A line joins each channel of a with the one of b that it is most like.",
    "Sorted: the channels of a in the order of their counterparts in b. The lines run straight.",
  ];

  /** @param {SeamStage} stage */
  const nameOf = ({ images }) =>
    images === 0
      ? "as they are"
      : images === null
        ? "sorted"
        : `stitched on ${images} ${images === 1 ? "image" : "images"}`;

  /** @param {HTMLElement} root */
  function build(root) {
    const address = state("seam");
    const [asked, place] = (address.read() ?? "").split("-");
    let method = METHODS.includes(asked) ? asked : METHODS[0];
    let at = Math.min(Number(place) || 0, 6);
    /** @type {{networks: Networks, seam: SeamFile, numbers: Float32Array} | null} */
    let loaded = null;

    const between = slider("what is put between", 0, 6, (place) => {
      at = place;
      show();
    });
    between.value = `${at}`;
    const named = make("b");
    const { canvas, clear, examples, image } = compatkitPad.pad(16, FIRST, () => show());
    const lines = svg("g", { class: "lines" });
    const height = 32 * ROW;
    const [left, right] = ["a", "b"].map(() =>
      make("canvas", { class: "maps", width: `${2 * TILE}`, height: `${2 * height}` }),
    );
    const viewBox = `0 0 ${WIDTH} ${height}`;
    const drawn = svg("svg", { viewBox, "aria-hidden": "true", preserveAspectRatio: "none" }, [lines]);
    const seamed = make("div", { class: "between", role: "img", "aria-label": "channels of both extractors" }, [
      left,
      drawn,
      right,
    ]);
    const digit = make("b", { class: "digit" }, ["–"]);
    const share = make("span", { class: "share" });
    const own = make("span", { class: "own" });
    const accuracies = meters("Test images read right", ["this pair, a-b", "all runs, mean"]);
    const words = make("p", { class: "words", "aria-live": "polite" });
    const methods = METHODS.map((name) => /** @type {[string, string]} */ ([name, name]));
    root.replaceChildren(
      make("div", { class: "choices" }, [
        radios("method", "Trained", methods, method, (picked) => {
          method = picked;
          fetch();
        }),
        slid("Between extractor a and head b:", named, between),
      ]),
      make("div", { class: "side" }, [
        make("div", { class: "reading" }, [
          make("span", {}, ["They see"]),
          canvas,
          make("div", { class: "tools" }, [examples, clear]),
        ]),
        make("div", { class: "answer" }, [make("span", {}, ["Head b on extractor a reads "]), digit, share, own]),
        accuracies.element,
      ]),
      make("div", { class: "seamed" }, [
        make("div", { class: "ends" }, [make("span", {}, ["channels of a"]), make("span", {}, ["of b"])]),
        seamed,
      ]),
      words,
    );

    function fetch() {
      const wanted = method;
      loaded = null;
      root.setAttribute("aria-busy", "true");
      Promise.all([compatkitNet.load(wanted), load("compatkitSeams", `seam-${wanted}`)]).then(
        ([networks, seam]) => {
          if (wanted !== method) return;
          root.removeAttribute("aria-busy");
          loaded = { networks, seam, numbers: compatkitNet.decoded(seam.numbers, seam.count) };
          show();
        },
        (error) => (words.textContent = error.message),
      );
    }

    /** Feature maps, one below the other, each from its least to its largest value. @param {HTMLCanvasElement} paper @param {Features} features @param {number[]} order */
    function paint(paper, features, order) {
      const context = /** @type {CanvasRenderingContext2D} */ (paper.getContext("2d"));
      const [side, area] = [features.width, features.width * features.height];
      context.clearRect(0, 0, paper.width, paper.height);
      context.imageSmoothingEnabled = false;
      order.forEach((channel, row) => {
        const values = features.data.subarray(channel * area, (channel + 1) * area);
        const [low, high] = [Math.min(...values), Math.max(...values)];
        const pixels = new ImageData(side, features.height);
        values.forEach((value, i) => {
          const level = 255 * ((value - low) / (high - low || 1));
          pixels.data.set([0.25 * level, 0.6 * level + 30, 0.7 * level + 50, 255], 4 * i);
        });
        const small = make("canvas", { width: `${side}`, height: `${features.height}` });
        /** @type {CanvasRenderingContext2D} */ (small.getContext("2d")).putImageData(pixels, 0, 0);
        context.drawImage(small, 0, 2 * row * ROW, 2 * TILE, 2 * TILE);
      });
    }

    /** @type {number[]} rows of the lines' left ends, as they are drawn */
    let ends = [];
    const moving = motion(600);

    function show() {
      if (!loaded) return;
      const { networks, seam, numbers } = loaded;
      const stage = seam.stages[at];
      named.textContent = nameOf(stage);
      between.setAttribute("aria-valuetext", nameOf(stage));
      const chosen = `${method}-${at}`;
      address.write(chosen === `${METHODS[0]}-0` ? null : chosen);
      const find = (/** @type {string} */ extractor, /** @type {string} */ head) =>
        /** @type {Combination} */ (
          networks.file.combinations.find(
            (c) => c.extractor === extractor && c.head === head && (c.split === null || c.split === CUT),
          )
        );
      const channels = seam.order.length;
      const part = (/** @type {number} */ from, /** @type {number} */ n) => numbers.subarray(from, from + n);
      const identity = Float32Array.from({ length: channels ** 2 }, (_, i) => Number(i % (channels + 1) === 0));
      const weight = stage.weight === null ? identity : part(stage.weight, channels ** 2);
      const bias = stage.bias === null ? new Float32Array(channels) : part(stage.bias, channels);
      const moments = Object.fromEntries(
        Object.entries(stage.statistics).map(([name, from]) => {
          const n = networks.file.networks.b.arrays[`${name}.bias`].shape[0];
          return [name, part(from, 2 * n)];
        }),
      );
      const pixels = image() ?? new Uint8Array(256);
      const swapped = find("a", "b");
      const classes = networks.file.networks.b.classes;
      const [shares, ownShares] = [
        compatkitNet.probabilities(
          compatkitNet.logits(networks, swapped, pixels, { weight, bias, moments }),
          swapped.outputs,
        ),
        compatkitNet.probabilities(compatkitNet.logits(networks, find("a", "a"), pixels), swapped.outputs),
      ];
      const [said, ownSaid] = [best(shares), best(ownShares)];
      const empty = image() === null;
      digit.textContent = empty ? "–" : classes[said];
      share.textContent = empty ? "" : ` ${percent(shares[said])}`;
      own.textContent = empty ? "Draw a digit." : `its own head a reads ${classes[ownSaid]}`;
      digit.classList.toggle("wrong", said !== ownSaid);

      const features = compatkitNet.maps(networks, find("a", "a"), pixels, CUT);
      const others = compatkitNet.maps(networks, find("b", "b"), pixels, CUT);
      const stored = Array.from({ length: channels }, (_, i) => i);
      // which channel of a stands in each row: its own place, or that of its counterpart
      const sorted = stored.map((j) => seam.order.indexOf(j));
      const stitched = stage.images !== null && stage.images > 0;
      paint(left, stitched ? compatkitNet.mixed(features, weight, bias) : features, at === 1 ? sorted : stored);
      paint(right, others, stored);
      const from = stored.map((channel) => (at === 0 ? channel : seam.order[channel]));
      join(from, seam, numbers);
      const { accuracy, recorded } = stage;
      accuracies.show([accuracy, recorded]);
      words.textContent =
        (WORDS[at] ??
          `Stitched: each channel of b's head is a mix of all of a's, fitted on ${nameOf(stage).replace("stitched on ", "")} without labels. ` +
            "On the left is the mix.") +
        ` Test images read right: ${percent(accuracy)}` +
        (recorded === null ? "." : `; ${percent(recorded)} on average over all runs of the book.`);
      seamed.setAttribute("aria-label", `32 feature maps of a and of b, ${nameOf(stage)}, ${method}.`);
    }

    /**
     * Lines from each channel of a to its counterpart in b, as wide as they correlate; they move to where they go.
     * @param {number[]} to row of each channel of a @param {SeamFile} seam @param {Float32Array} numbers
     */
    function join(to, seam, numbers) {
      const before = ends.length ? ends : to;
      const n = to.length;
      moving((done) => {
        ends = to.map((row, i) => before[i] + (row - before[i]) * done);
        lines.replaceChildren(
          ...ends.map((row, channel) => {
            const other = seam.order[channel];
            const strength = Math.max(0, numbers[seam.correlations + channel * n + other]);
            const [y0, y1] = [row * ROW + TILE / 2, other * ROW + TILE / 2];
            const d = `M0 ${y0}C${WIDTH / 3} ${y0} ${(2 * WIDTH) / 3} ${y1} ${WIDTH} ${y1}`;
            const straight = Math.abs(row - other) < 0.5 ? "straight" : "crossed";
            return svg("path", {
              d,
              class: straight,
              "stroke-width": `${0.4 + 5 * strength}`,
              opacity: `${0.15 + strength}`,
            });
          }),
        );
      });
    }

    whenNear(root, fetch);
  }

  define("compatkit-seam", build);
})();
