// @ts-check
// Paper to draw a digit on, and ten that are written at a press: what each program that reads a digit shares.

/**
 * @typedef {[number, number]} Point in 0..1, from the top left
 * @typedef {Point[][]} Drawing strokes
 * @typedef {{ canvas: HTMLCanvasElement, seen: HTMLCanvasElement, clear: HTMLButtonElement, examples: HTMLElement,
 *             image: () => Uint8Array | null }} Pad image: as the networks see it, or null of empty paper
 */

const compatkitPad = (() => {
  "use strict";

  const { button, make } = compatkitElements;

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
   * @param {number} size side of the image that the networks see
   * @param {number} first the digit that stands there at first
   * @param {(settled: boolean) => void} changed settled: nothing is being drawn
   * @returns {Pad}
   */
  function pad(size, first, changed) {
    let own = false; // whether the reader has drawn what is on the canvas
    let drawing = written(first, 0);
    const turns = DIGITS.map((_, digit) => (digit === first ? 1 : 0)); // how often each digit has been written

    const canvas = make("canvas", { width: "448", height: "448", role: "img", "aria-label": `a drawn ${first}` });
    const paper = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const seen = make("canvas", { class: "seen", width: `${size}`, height: `${size}`, "aria-hidden": "true" });
    const clear = button("Clear", "clear", () => take([], "empty paper"));
    const buttons = DIGITS.map((_, digit) => {
      const made = button(`${digit}`, "", () => take(written(digit, turns[digit]++), `a drawn ${digit}`));
      made.setAttribute("aria-label", `write a ${digit}`);
      return made;
    });
    const examples = make("div", { class: "examples", role: "group", "aria-label": "examples" }, buttons);
    const image = () => (drawing.length ? picture(drawing, size) : null);

    /** @param {boolean} settled */
    function show(settled) {
      paper.clearRect(0, 0, canvas.width, canvas.height);
      paper.save();
      paper.scale(canvas.width, canvas.height);
      trace(paper, drawing, PEN);
      paper.restore();
      const context = /** @type {CanvasRenderingContext2D} */ (seen.getContext("2d"));
      const pixels = context.createImageData(size, size);
      (image() ?? new Uint8Array(size ** 2)).forEach((value, i) => pixels.data.set([value, value, value, 255], 4 * i));
      context.putImageData(pixels, 0, 0);
      changed(settled);
    }

    let frame = 0;
    /** Once a frame, however many points a pen sends. */
    function showSoon() {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => show(false));
    }

    /** @param {Drawing} strokes @param {string} name */
    function take(strokes, name) {
      drawing = strokes;
      own = false;
      canvas.setAttribute("aria-label", name);
      show(true);
    }

    /** @param {PointerEvent} event @returns {Point} */
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
    requestAnimationFrame(() => show(true)); // once the caller has it
    return { canvas, seen, clear, examples, image };
  }

  return { pad };
})();
