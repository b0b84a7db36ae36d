// @ts-check
// Two small convolutional networks that learn two sets of images, as paper A trains them: joint training, under the same
// start, a shared head for common classes, a shared head for rotation, or none of these.
//
// One function without anything from outside, so that its text runs in a worker (a page from disk can load no worker
// file), in the page, and in Node. Doubles throughout: JavaScript computes in no other precision without converting.

/**
 * @typedef {{ name: string, shape: number[], value: Float64Array, grad: Float64Array,
 *             mean: Float64Array, square: Float64Array, steps: number }} Parameter
 *   mean, square: what Adam keeps. A parameter that a step does not reach is left alone by it.
 * @typedef {{ inputs: number, outputs: number, side: number, stride: number, weight: Parameter, scale: Parameter,
 *             shift: Parameter, sources: Int32Array, spaces: Map<number, Space> }} Convolution
 *   3 x 3 with a border of zeros, then batch normalisation and ReLU; sources: for each place of the window and each
 *   pixel of the result the pixel that is read, or -1.
 * @typedef {{ columns: Float64Array, normal: Float64Array, out: Float64Array, back: Float64Array, spread: Float64Array,
 *             mean: Float64Array, inverse: Float64Array }} Space what a pass over so many images computes
 * @typedef {{ convolution: Convolution, weight: Parameter, bias: Parameter, pooled: Float64Array,
 *             logits: Float64Array }} Head
 * @typedef {{ mean: Float64Array, inverse: Float64Array }[]} Statistics
 *   of each normalisation, in order
 * @typedef {{ start: boolean, classes: boolean, rotation: boolean, shared: number, width: number, seed: number,
 *             steps: number, given: boolean }} Setting
 *   shared: how many of the common classes the shared head learns; width: channels at the seam; given: whether it
 *   begins with weights from elsewhere.
 * @typedef {{ name: string, shape: number[], value: number[] }[][]} Weights of each network
 * @typedef {{ images: Float64Array[], labels: Uint8Array }} Images each of side * side pixels, normalised
 * @typedef {{ name: string, mean: number, std: number, train: Images, test: Images }} DigitSet
 * @typedef {{ side: number, outputs: number, common: number, sets: DigitSet[] }} Data the first `common` classes are
 *   those that both sets have
 * @typedef {{ extractor: Convolution[], head: Head, random: () => number, order: number[] }} Network
 * @typedef {{ setting: Setting, data: Data, networks: Network[], classHead: Head | null, rotationHead: Head | null,
 *             step: number, statistics: Statistics[] }} Pair
 *   statistics: of aa, ab, ba and bb, as the last evaluation met them
 */

// eslint-disable-next-line no-unused-vars
function compatkitTraining() {
  "use strict";

  const BATCH = 64;
  const RATE = 0.06;
  const EPSILON = 1e-5;
  const FIRST = 8; // channels of the first convolution
  const SECOND = 16;
  const LAST = 24; // and of the last one

  // --- numbers -------------------------------------------------------------------------------------------------------

  /** Evenly distributed numbers in 0..1 (mulberry32). @param {number} seed */
  function stream(seed) {
    let state = Math.imul(seed + 1, 0x9e3779b1) | 0;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** @param {() => number} random */
  const normal = (random) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());

  /** The numbers below n in random order. @param {number} n @param {() => number} random */
  function shuffled(n, random) {
    const order = Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  /**
   * to (m x n) += a (m x k) b: eight sums at a time, which stay in registers.
   * @param {Float64Array} to @param {Float64Array} a @param {Float64Array} b (k x n), or (n x k) if it is turned
   * @param {number} m @param {number} k @param {number} n @param {boolean} [isTurned]
   */
  function product(to, a, b, m, k, n, isTurned = false) {
    const [down, right] = isTurned ? [1, k] : [n, 1]; // in b, from one of the k and of the n to the next
    const [rows, columns] = [m - (m % 2), n - (n % 4)];
    const four = new Float64Array(4 * k); // columns of b, side by side
    for (let p = 0; p < columns; p += 4) {
      for (let j = 0, from = p * right, to = 0; j < k; j++, from += down, to += 4) {
        four[to] = b[from];
        four[to + 1] = b[from + right];
        four[to + 2] = b[from + 2 * right];
        four[to + 3] = b[from + 3 * right];
      }
      for (let i = 0; i < rows; i += 2) {
        let [s00, s01, s02, s03] = [0, 0, 0, 0];
        let [s10, s11, s12, s13] = [0, 0, 0, 0];
        for (let j = 0, from = i * k; j < 4 * k; j += 4, from++) {
          const x0 = four[j];
          const x1 = four[j + 1];
          const x2 = four[j + 2];
          const x3 = four[j + 3];
          const u0 = a[from];
          s00 += u0 * x0;
          s01 += u0 * x1;
          s02 += u0 * x2;
          s03 += u0 * x3;
          const u1 = a[from + k];
          s10 += u1 * x0;
          s11 += u1 * x1;
          s12 += u1 * x2;
          s13 += u1 * x3;
        }
        const c0 = i * n + p;
        to[c0] += s00;
        to[c0 + 1] += s01;
        to[c0 + 2] += s02;
        to[c0 + 3] += s03;
        const c1 = (i + 1) * n + p;
        to[c1] += s10;
        to[c1 + 1] += s11;
        to[c1 + 2] += s12;
        to[c1 + 3] += s13;
      }
    }
    for (let i = 0; i < m; i++) {
      for (let p = i < rows ? columns : 0; p < n; p++) {
        let sum = 0;
        for (let j = 0; j < k; j++) sum += a[i * k + j] * b[j * down + p * right];
        to[i * n + p] += sum;
      }
    }
  }

  /** @param {Float64Array} a (m x k) @param {number} m @param {number} k @returns {Float64Array} (k x m) */
  function transposed(a, m, k) {
    const to = new Float64Array(m * k);
    for (let i = 0; i < m; i++) for (let j = 0; j < k; j++) to[j * m + i] = a[i * k + j];
    return to;
  }

  // --- parts of a network --------------------------------------------------------------------------------------------

  /** @param {string} name @param {number[]} shape @param {() => number} draw @returns {Parameter} */
  function parameter(name, shape, draw) {
    const size = shape.reduce((product, n) => product * n, 1);
    const [grad, mean, square] = [0, 0, 0].map(() => new Float64Array(size));
    return { name, shape, value: new Float64Array(size).map(draw), grad, mean, square, steps: 0 };
  }

  /**
   * @param {string} name @param {number} inputs @param {number} outputs @param {number} side @param {number} stride
   * @param {() => number} random
   * @returns {Convolution}
   */
  function convolution(name, inputs, outputs, side, stride, random) {
    const spread = Math.sqrt(2 / (9 * outputs)); // He et al., by what goes out
    const after = Math.ceil(side / stride);
    const sources = new Int32Array(9 * after * after).map((_, i) => {
      const [window, pixel] = [Math.floor(i / after ** 2), i % after ** 2];
      const row = Math.floor(pixel / after) * stride + Math.floor(window / 3) - 1;
      const column = (pixel % after) * stride + (window % 3) - 1;
      return row < 0 || column < 0 || row >= side || column >= side ? -1 : row * side + column;
    });
    const weight = parameter(`${name}.0.weight`, [outputs, inputs, 3, 3], () => spread * normal(random));
    const scale = parameter(`${name}.1.weight`, [outputs], () => 1);
    const shift = parameter(`${name}.1.bias`, [outputs], () => 0);
    return { inputs, outputs, side, stride, weight, scale, shift, sources, spaces: new Map() };
  }

  /** @param {string} name @param {number} inputs @param {number} side @param {number} outputs @param {() => number} random @returns {Head} */
  function head(name, inputs, side, outputs, random) {
    const reach = 1 / Math.sqrt(LAST);
    const draw = () => reach * (2 * random() - 1);
    const none = new Float64Array(0);
    return {
      convolution: convolution(`${name}.conv`, inputs, LAST, side, 2, random),
      weight: parameter(`${name}.linear.weight`, [outputs, LAST], draw),
      bias: parameter(`${name}.linear.bias`, [outputs], draw),
      pooled: none,
      logits: none,
    };
  }

  /** @param {Convolution} part @param {number} n @returns {Space} */
  function spaceFor(part, n) {
    const known = part.spaces.get(n);
    if (known) return known;
    const size = n * (part.sources.length / 9);
    const made = {
      columns: new Float64Array(9 * part.inputs * size),
      normal: new Float64Array(part.outputs * size),
      out: new Float64Array(part.outputs * size),
      back: new Float64Array(part.inputs * n * part.side ** 2),
      spread: new Float64Array(9 * part.inputs * size),
      mean: new Float64Array(part.outputs),
      inverse: new Float64Array(part.outputs),
    };
    part.spaces.set(n, made);
    return made;
  }

  /**
   * Features (outputs, n, pixels) of features (inputs, n, pixels).
   * @param {Convolution} part @param {Float64Array} x @param {number} n
   * @param {{mean: Float64Array, inverse: Float64Array} | null} [fixed] in place of the statistics of these images
   */
  function forward(part, x, n, fixed = null) {
    const { columns, normal: centred, out, mean, inverse } = spaceFor(part, n);
    const [area, before, window] = [part.sources.length / 9, part.side ** 2, 9 * part.inputs];
    const size = n * area;
    for (let row = 0, to = 0; row < window; row++) {
      const from = Math.floor(row / 9) * n * before;
      const first = (row % 9) * area;
      for (let i = 0; i < n; i++) {
        for (let p = 0; p < area; p++, to++) {
          const source = part.sources[first + p];
          columns[to] = source < 0 ? 0 : x[from + i * before + source];
        }
      }
    }
    centred.fill(0);
    product(centred, part.weight.value, columns, part.outputs, window, size);
    for (let c = 0; c < part.outputs; c++) {
      const [from, to] = [c * size, (c + 1) * size];
      if (fixed) {
        mean[c] = fixed.mean[c];
        inverse[c] = fixed.inverse[c];
      } else {
        let [sum, squares] = [0, 0];
        for (let i = from; i < to; i++) sum += centred[i];
        mean[c] = sum / size;
        for (let i = from; i < to; i++) squares += (centred[i] - mean[c]) ** 2;
        inverse[c] = 1 / Math.sqrt(squares / size + EPSILON);
      }
      const [m, s, scale, shift] = [mean[c], inverse[c], part.scale.value[c], part.shift.value[c]];
      for (let i = from; i < to; i++) {
        centred[i] = (centred[i] - m) * s;
        const value = scale * centred[i] + shift;
        out[i] = value > 0 ? value : 0;
      }
    }
    return out;
  }

  /**
   * Adds the gradients of the parameters; returns that of what went in, or nothing where nobody asks.
   * @param {Convolution} part @param {Float64Array} gradient of what came out; is overwritten
   * @param {number} n @param {boolean} asked
   */
  function backward(part, gradient, n, asked) {
    const { columns, normal: centred, out, back, spread, inverse } = spaceFor(part, n);
    const [area, before, window] = [part.sources.length / 9, part.side ** 2, 9 * part.inputs];
    const size = n * area;
    for (let c = 0; c < part.outputs; c++) {
      let [sum, along] = [0, 0];
      const [from, to] = [c * size, (c + 1) * size];
      for (let i = from; i < to; i++) {
        if (out[i] > 0) {
          sum += gradient[i];
          along += gradient[i] * centred[i];
        } else gradient[i] = 0;
      }
      part.shift.grad[c] += sum;
      part.scale.grad[c] += along;
      const factor = part.scale.value[c] * inverse[c];
      for (let i = from; i < to; i++) gradient[i] = factor * (gradient[i] - (sum + centred[i] * along) / size);
    }
    product(part.weight.grad, gradient, columns, part.outputs, size, window, true);
    if (!asked) return back;
    spread.fill(0);
    product(spread, transposed(part.weight.value, part.outputs, window), gradient, window, part.outputs, size);
    back.fill(0);
    for (let row = 0, at = 0; row < window; row++) {
      const from = Math.floor(row / 9) * n * before;
      const first = (row % 9) * area;
      for (let i = 0; i < n; i++) {
        for (let p = 0; p < area; p++, at++) {
          const source = part.sources[first + p];
          if (source >= 0) back[from + i * before + source] += spread[at];
        }
      }
    }
    return back;
  }

  /**
   * Logits (outputs, n).
   * @param {Head} part @param {Float64Array} features @param {number} n
   * @param {{mean: Float64Array, inverse: Float64Array} | null} [fixed]
   */
  function answer(part, features, n, fixed = null) {
    const map = forward(part.convolution, features, n, fixed);
    const area = part.convolution.sources.length / 9;
    part.pooled = new Float64Array(LAST * n);
    for (let i = 0, from = 0; i < part.pooled.length; i++) {
      let sum = 0;
      for (const end = from + area; from < end; from++) sum += map[from];
      part.pooled[i] = sum / area;
    }
    const outputs = part.bias.value.length;
    part.logits = new Float64Array(outputs * n).map((_, i) => part.bias.value[Math.floor(i / n)]);
    product(part.logits, part.weight.value, part.pooled, outputs, LAST, n);
    return part.logits;
  }

  /**
   * Cross-entropy, mean over the images, of the logits that the head has just given; a label of -1 counts with loss 0.
   * Adds the gradients of the head; returns the loss and the gradient of the features.
   * @param {Head} part @param {ArrayLike<number>} labels
   */
  function learn(part, labels) {
    const [n, outputs] = [labels.length, part.bias.value.length];
    const gradient = new Float64Array(outputs * n);
    let loss = 0;
    for (let i = 0; i < n; i++) {
      if (labels[i] < 0) continue;
      let [largest, sum] = [-Infinity, 0];
      for (let o = 0; o < outputs; o++) largest = Math.max(largest, part.logits[o * n + i]);
      for (let o = 0; o < outputs; o++) sum += Math.exp(part.logits[o * n + i] - largest);
      loss += (largest + Math.log(sum) - part.logits[labels[i] * n + i]) / n;
      for (let o = 0; o < outputs; o++) {
        const share = Math.exp(part.logits[o * n + i] - largest) / sum;
        gradient[o * n + i] = (share - (o === labels[i] ? 1 : 0)) / n;
      }
    }
    for (let o = 0; o < outputs; o++) for (let i = 0; i < n; i++) part.bias.grad[o] += gradient[o * n + i];
    product(part.weight.grad, gradient, part.pooled, outputs, n, LAST, true);
    const pooled = new Float64Array(LAST * n);
    product(pooled, transposed(part.weight.value, outputs, LAST), gradient, LAST, outputs, n);
    const area = part.convolution.sources.length / 9;
    const map = new Float64Array(pooled.length * area).map((_, i) => pooled[Math.floor(i / area)] / area);
    return { loss, features: backward(part.convolution, map, n, true) };
  }

  // --- two networks --------------------------------------------------------------------------------------------------

  /**
   * Two networks before the first step. All settings of one seed start from the same draws and see the same batches.
   * @param {Data} data @param {Setting} setting
   * @param {Weights | null} [given] in place of what is drawn
   * @returns {Pair}
   */
  function create(data, setting, given = null) {
    const draws = Array.from({ length: 6 }, (_, i) => stream(8 * setting.seed + i));
    const [quarter, common] = [data.side / 4, Math.min(setting.shared, data.common)];
    const networks = data.sets.map(({ train }, i) => {
      const random = setting.start ? stream(8 * setting.seed) : draws[i];
      const extractor = [
        convolution("extractor.0", 1, FIRST, data.side, 1, random),
        convolution("extractor.1", FIRST, SECOND, data.side, 2, random),
        convolution("extractor.2", SECOND, setting.width, data.side / 2, 2, random),
      ];
      const own = head("head", setting.width, quarter, data.outputs, random);
      return { extractor, head: own, random: draws[2 + i], order: shuffled(train.labels.length, draws[2 + i]) };
    });
    const classHead = setting.classes ? head("class head", setting.width, quarter, common, draws[4]) : null;
    const rotationHead = setting.rotation ? head("rotation head", setting.width, quarter, 4, draws[5]) : null;
    const pair = { setting, data, networks, classHead, rotationHead, step: 0, statistics: [] };
    given?.forEach((named, which) => {
      const values = new Map(named.map(({ name, value }) => [name, value]));
      for (const { name, value } of parameters(pair, which)) value.set(values.get(name) ?? value);
    });
    return pair;
  }

  /** @param {Convolution[]} extractor @param {Float64Array} images @param {number} n */
  const features = (extractor, images, n) => extractor.reduce((x, part) => forward(part, x, n), images);

  /** @param {Convolution[]} extractor @param {Float64Array} gradient @param {number} n */
  function backThrough(extractor, gradient, n) {
    for (let i = extractor.length - 1; i >= 0; i--) gradient = backward(extractor[i], gradient, n, i > 0);
  }

  /** An image turned to the left by so many quarters. @param {Float64Array} image @param {number} quarters @param {number} side */
  function turned(image, quarters, side) {
    const last = side - 1;
    return image.map((_, i) => {
      const [row, column] = [Math.floor(i / side), i % side];
      const from = [
        [row, column],
        [column, last - row],
        [last - row, last - column],
        [last - column, row],
      ][quarters];
      return image[from[0] * side + from[1]];
    });
  }

  /** @param {Float64Array[]} images */
  function together(images) {
    const whole = new Float64Array(images.length * images[0].length);
    images.forEach((image, i) => whole.set(image, i * image.length));
    return whole;
  }

  /**
   * The gradients of one network's terms, and of the heads that it shares, on a minibatch; returns the losses.
   * @param {Pair} pair @param {number} which @param {Float64Array[]} images @param {ArrayLike<number>} labels
   * @param {number[]} turns of each image, for the rotation head
   */
  function gradients(pair, which, images, labels, turns) {
    const { extractor, head: own } = pair.networks[which];
    const n = images.length;
    for (const each of parameters(pair, which)) each.grad.fill(0);
    /** @type {Record<string, number>} */
    const losses = {};
    const found = features(extractor, together(images), n);
    answer(own, found, n);
    const target = learn(own, labels);
    losses.target = target.loss;
    const gradient = target.features.slice();
    if (pair.classHead) {
      const known = pair.classHead.bias.value.length;
      answer(pair.classHead, found, n);
      const among = Array.from(labels, (label) => (label < known ? label : -1));
      const shared = learn(pair.classHead, among);
      losses.classes = shared.loss;
      shared.features.forEach((value, i) => (gradient[i] += value));
    }
    backThrough(extractor, gradient, n);
    if (pair.rotationHead) {
      const rotated = together(images.map((image, i) => turned(image, turns[i], pair.data.side)));
      answer(pair.rotationHead, features(extractor, rotated, n), n);
      const rotation = learn(pair.rotationHead, turns);
      losses.rotation = rotation.loss;
      backThrough(extractor, rotation.features.slice(), n);
    }
    return losses;
  }

  /** What a step of one network reaches. @param {Pair} pair @param {number} which @returns {Parameter[]} */
  function parameters({ networks, classHead, rotationHead }, which) {
    const { extractor, head: own } = networks[which];
    const heads = [own, ...[classHead, rotationHead].filter((each) => each !== null)];
    const convolutions = [...extractor, ...heads.map((each) => each.convolution)];
    return [
      ...convolutions.flatMap(({ weight, scale, shift }) => [weight, scale, shift]),
      ...heads.flatMap(({ weight, bias }) => [weight, bias]),
    ];
  }

  /** Climbs over the first quarter and falls along a cosine. @param {number} step @param {number} steps */
  function rate(step, steps) {
    const done = (step + 1) / steps;
    return RATE * (done < 0.25 ? done / 0.25 : (1 + Math.cos((Math.PI * (done - 0.25)) / 0.75)) / 2);
  }

  /** Adam. @param {Parameter[]} reached @param {number} lr */
  function update(reached, lr) {
    for (const each of reached) {
      each.steps++;
      const [first, second] = [1 - 0.9 ** each.steps, 1 - 0.999 ** each.steps];
      for (let i = 0; i < each.value.length; i++) {
        const grad = each.grad[i];
        each.mean[i] = 0.9 * each.mean[i] + 0.1 * grad;
        each.square[i] = 0.999 * each.square[i] + 0.001 * grad * grad;
        each.value[i] -= (lr * (each.mean[i] / first)) / (Math.sqrt(each.square[i] / second) + 1e-8);
      }
    }
  }

  /** One minibatch of each network, each followed by an update. @param {Pair} pair */
  function step(pair) {
    const lr = rate(pair.step, pair.setting.steps);
    pair.networks.forEach((network, which) => {
      const { train } = pair.data.sets[which];
      if (network.order.length < BATCH) network.order = shuffled(train.labels.length, network.random);
      const chosen = network.order.splice(0, BATCH);
      const turns = chosen.map(() => Math.floor(4 * network.random()));
      const images = chosen.map((i) => train.images[i]);
      const labels = chosen.map((i) => train.labels[i]);
      gradients(pair, which, images, labels, turns);
      update(parameters(pair, which), lr);
    });
    pair.step++;
  }

  /**
   * The accuracy of each extractor with each head on test images of the extractor's set, of the common classes, which
   * alone compete; normalised by statistics of these images, which are kept. [aa, ab, ba, bb]
   * @param {Pair} pair
   */
  function evaluate(pair) {
    const { common, sets } = pair.data;
    pair.statistics = [];
    return pair.networks.flatMap(({ extractor }, which) => {
      const { images, labels } = sets[which].test;
      const known = Array.from(labels.keys()).filter((i) => labels[i] < common);
      const n = known.length;
      const found = features(extractor, together(known.map((i) => images[i])), n);
      const seen = extractor.map((part) => spaceFor(part, n)).map(copied);
      const heads = pair.networks.map((network) => network.head);
      return heads.map((each) => {
        const logits = answer(each, found, n);
        pair.statistics.push([...seen, copied(spaceFor(each.convolution, n))]);
        return known.filter((i, place) => best(logits, n, place, common) === labels[i]).length / n;
      });
    });
  }

  /** @param {Space} space */
  const copied = ({ mean, inverse }) => ({ mean: mean.slice(), inverse: inverse.slice() });

  /** @param {Float64Array} logits (outputs, n) @param {number} n @param {number} place @param {number} outputs */
  function best(logits, n, place, outputs) {
    let found = 0;
    for (let o = 1; o < outputs; o++) if (logits[o * n + place] > logits[found * n + place]) found = o;
    return found;
  }

  /**
   * What the four networks make of one image: the probabilities of the common classes. [aa, ab, ba, bb]
   * @param {Pair} pair evaluated before
   * @param {ArrayLike<number>} pixels 0..1
   */
  function read(pair, pixels) {
    return pair.statistics.map((statistics, place) => {
      const { mean, std } = pair.data.sets[place >> 1];
      /** @type {Float64Array} */
      let x = Float64Array.from(pixels, (value) => (value - mean) / std);
      pair.networks[place >> 1].extractor.forEach((part, i) => (x = forward(part, x, 1, statistics[i])));
      const logits = answer(pair.networks[place & 1].head, x, 1, statistics[3]).subarray(0, pair.data.common);
      const largest = Math.max(...logits);
      const weights = Array.from(logits, (logit) => Math.exp(logit - largest));
      const sum = weights.reduce((a, b) => a + b);
      return weights.map((weight) => weight / sum);
    });
  }

  /**
   * Sets as they stand in a file: four bits a pixel, two pixels a byte, the high one first, after them the labels.
   * @param {{ side: number, outputs: number, common: number,
   *           sets: { name: string, train: number, test: number, mean: number, std: number }[] }} header
   * @param {Uint8Array} bytes
   * @returns {Data}
   */
  function unpacked(header, bytes) {
    const size = header.side ** 2;
    let at = 0;
    const sets = header.sets.map(({ name, train, test, mean, std }) => {
      /** @param {number} count @returns {Images} */
      const part = (count) => {
        const images = Array.from({ length: count }, () => {
          const image = new Float64Array(size).map((_, i) => {
            const byte = bytes[at + (i >> 1)];
            return ((i & 1 ? byte & 15 : byte >> 4) / 15 - mean) / std;
          });
          at += size / 2;
          return image;
        });
        const labels = bytes.slice(at, at + count);
        at += count;
        return { images, labels };
      };
      return { name, mean, std, train: part(train), test: part(test) };
    });
    return { side: header.side, outputs: header.outputs, common: header.common, sets };
  }

  /** All weights, by name. @param {Pair} pair @returns {Weights} */
  function weights(pair) {
    return pair.networks.map((_, which) =>
      parameters(pair, which).map(({ name, shape, value }) => ({ name, shape, value: Array.from(value) })),
    );
  }

  return { create, step, gradients, parameters, evaluate, read, unpacked, weights };
}
