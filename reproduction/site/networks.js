// @ts-check
// The networks that `python -m reproduction export` writes, run in the page.

/**
 * @typedef {{ at: number, shape: number[] }} Place where an array begins among the numbers
 * @typedef {{ name: string, kind: "convolution" | "residual" | "pool" | "linear", stride: number }} Block
 * @typedef {{ set: string, classes: string[], mean: number[], std: number[], arrays: Record<string, Place> }} Part
 * @typedef {{
 *   extractor: "a" | "b", head: "a" | "b", split: string | null, outputs: number[],
 *   statistics: Record<string, number>, accuracy: number, images: number, recorded: number | null
 * }} Combination
 * @typedef {{
 *   method: string, seed: number, trained_split: string, size: [number, number, number], eps: number, blocks: Block[],
 *   networks: Record<"a" | "b", Part>, combinations: Combination[], count: number, numbers: string
 * }} NetworkFile as documented in reproduction/runs/export/networks.py
 * @typedef {{ file: NetworkFile, numbers: Float32Array }} Networks
 * @typedef {{ weight: Float32Array, bias: Float32Array, moments: Record<string, Float32Array> }} Seam
 *   moments: for each batch normalisation of the head its means, then its variances
 * @typedef {{ data: Float32Array, channels: number, height: number, width: number }} Features
 */

const compatkitNet = (() => {
  "use strict";

  /** The networks of a method. @param {string} method @returns {Promise<Networks>} */
  async function load(method) {
    /** @type {NetworkFile} */
    const file = await compatkitExported.load("compatkitNetworks", method);
    return { file, numbers: decoded(file.numbers, file.count) };
  }

  /** Half-precision numbers in base 85. @param {string} text @param {number} count */
  function decoded(text, count) {
    const pairs = compatkitExported.bytes(text, 2 * count);
    return new Float32Array(count).map((_, i) => half(pairs[2 * i] | (pairs[2 * i + 1] << 8)));
  }

  /** @param {number} bits IEEE half precision */
  function half(bits) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14;
    return bits & 0x8000 ? -size : size;
  }

  /**
   * The logits of one network, whole or recombined, for one image.
   * @param {Networks} networks
   * @param {Combination} combination
   * @param {ArrayLike<number>} pixels 0..255, channel by channel
   * @param {Seam | null} [seam] what is put between extractor and head
   */
  const logits = (networks, combination, pixels, seam = null) => pass(networks, combination, pixels, seam, "").data;

  /**
   * The feature maps of a whole network after a block.
   * @param {Networks} networks
   * @param {Combination} combination
   * @param {ArrayLike<number>} pixels 0..255, channel by channel
   * @param {string} block
   */
  const maps = (networks, combination, pixels, block) => pass(networks, combination, pixels, null, block);

  /**
   * @param {Networks} networks
   * @param {Combination} combination
   * @param {ArrayLike<number>} pixels
   * @param {Seam | null} seam
   * @param {string} until the block whose output is wanted; "": the last one
   */
  function pass({ file, numbers }, combination, pixels, seam, until) {
    const [channels, height, width] = file.size;
    const { mean, std } = file.networks[combination.extractor];
    const area = height * width;
    const image = Float32Array.from(pixels, (value, i) => {
      const channel = Math.floor(i / area);
      return (value / 255 - mean[channel]) / std[channel];
    });
    /** @type {Record<string, Float32Array>} */
    let moments = {};
    /** @type {Features} */
    let features = { data: image, channels, height, width };
    let part = file.networks[combination.extractor];

    /** @param {string} name */
    const array = (name) => {
      const { at, shape } = part.arrays[name];
      return numbers.subarray(at, at + shape.reduce((size, n) => size * n, 1));
    };
    /** @param {Features} x @param {string} convolution @param {string} norm @param {number} stride */
    const normalised = (x, convolution, norm, stride) => {
      const y = convolved(x, array(`${convolution}.weight`), stride);
      const [scale, shift] = [array(`${norm}.weight`), array(`${norm}.bias`)];
      const given = moments[norm] ?? numbers.subarray(combination.statistics[norm]);
      for (let c = 0, i = 0; c < y.channels; c++) {
        const factor = scale[c] / Math.sqrt(given[y.channels + c] + file.eps);
        const offset = shift[c] - given[c] * factor;
        for (const end = i + y.height * y.width; i < end; i++) y.data[i] = y.data[i] * factor + offset;
      }
      return y;
    };

    for (const { name, kind, stride } of file.blocks) {
      if (kind === "convolution") features = rectified(normalised(features, `${name}.0`, `${name}.1`, stride));
      else if (kind === "pool") features = pooled(features);
      else if (kind === "linear") features = mixed(features, array(`${name}.weight`), array(`${name}.bias`));
      else {
        const inner = rectified(normalised(features, `${name}.conv1`, `${name}.bn1`, stride));
        const sum = normalised(inner, `${name}.conv2`, `${name}.bn2`, 1);
        features = rectified(withShortcut(sum, features, stride));
      }
      if (name === until) return features;
      if (name !== combination.split) continue;
      part = file.networks[combination.head];
      if (seam) {
        features = mixed(features, seam.weight, seam.bias);
        moments = seam.moments;
      }
    }
    return features;
  }

  /**
   * A 3 x 3 convolution of an image with a border of zeros.
   * @param {Features} x
   * @param {Float32Array} weights (channels out, channels in, 3, 3)
   * @param {number} stride
   * @returns {Features}
   */
  function convolved(x, weights, stride) {
    const [height, width, wide] = [Math.ceil(x.height / stride), Math.ceil(x.width / stride), x.width + 2];
    const channels = weights.length / (9 * x.channels);
    const padded = new Float32Array(x.channels * (x.height + 2) * wide);
    for (let c = 0; c < x.channels; c++) {
      for (let row = 0; row < x.height; row++) {
        const from = (c * x.height + row) * x.width;
        padded.set(x.data.subarray(from, from + x.width), (c * (x.height + 2) + row + 1) * wide + 1);
      }
    }
    const data = new Float32Array(channels * height * width);
    for (let out = 0, w = 0; out < channels; out++) {
      for (let c = 0; c < x.channels; c++, w += 9) {
        const [w0, w1, w2, w3, w4, w5, w6, w7, w8] = weights.subarray(w, w + 9);
        for (let row = 0, to = out * height * width; row < height; row++) {
          let p = (c * (x.height + 2) + row * stride) * wide;
          for (let column = 0; column < width; column++, to++, p += stride) {
            const [q, r] = [p + wide, p + 2 * wide];
            // prettier-ignore
            data[to] +=
              w0 * padded[p] + w1 * padded[p + 1] + w2 * padded[p + 2] +
              w3 * padded[q] + w4 * padded[q + 1] + w5 * padded[q + 2] +
              w6 * padded[r] + w7 * padded[r + 1] + w8 * padded[r + 2];
          }
        }
      }
    }
    return { data, channels, height, width };
  }

  /**
   * Each channel from all channels, at every place alike.
   * @param {Features} x
   * @param {Float32Array} weights (channels out, channels in)
   * @param {Float32Array} bias
   * @returns {Features}
   */
  function mixed(x, weights, bias) {
    const area = x.height * x.width;
    const data = new Float32Array(bias.length * area);
    bias.forEach((value, out) => {
      data.fill(value, out * area, (out + 1) * area);
      for (let c = 0; c < x.channels; c++) {
        const weight = weights[out * x.channels + c];
        for (let p = 0; p < area; p++) data[out * area + p] += weight * x.data[c * area + p];
      }
    });
    return { ...x, data, channels: bias.length };
  }

  /** Negative values become zero, in place. @param {Features} x */
  function rectified(x) {
    for (let i = 0; i < x.data.length; i++) if (x.data[i] < 0) x.data[i] = 0;
    return x;
  }

  /**
   * Adds the input of a residual block to what it made of it, in place: every `stride`-th pixel, its channels in the
   * middle.
   * @param {Features} sum
   * @param {Features} x
   * @param {number} stride
   */
  function withShortcut(sum, x, stride) {
    const before = (sum.channels - x.channels) >> 1;
    for (let c = 0; c < x.channels; c++) {
      for (let row = 0; row < sum.height; row++) {
        const from = (c * x.height + row * stride) * x.width;
        const to = ((c + before) * sum.height + row) * sum.width;
        for (let column = 0; column < sum.width; column++) sum.data[to + column] += x.data[from + column * stride];
      }
    }
    return sum;
  }

  /** The mean of each channel. @param {Features} x @returns {Features} */
  function pooled(x) {
    const area = x.height * x.width;
    const data = Float32Array.from({ length: x.channels }, (_, c) => {
      return x.data.subarray(c * area, (c + 1) * area).reduce((sum, value) => sum + value, 0) / area;
    });
    return { data, channels: x.channels, height: 1, width: 1 };
  }

  /**
   * A square image cut to the box of its non-zero pixels and stretched, bilinearly, as by
   * `scale_bounding_box` in reproduction/images.py.
   * @param {ArrayLike<number>} image
   * @param {number} side
   * @param {number} size
   */
  function stretched(image, side, size) {
    const occupied = Array.from({ length: side * side }, (_, i) => i).filter((i) => image[i] > 0);
    /** @param {number[]} places */
    const positions = (places) => {
      const [first, last] = [Math.min(...places), Math.max(...places)];
      return Array.from({ length: size }, (_, i) => {
        const position = first + ((i + 0.5) / size) * (last - first + 1) - 0.5;
        return Math.min(Math.max(position, first), last);
      });
    };
    const rows = positions(occupied.map((i) => Math.floor(i / side)));
    const columns = positions(occupied.map((i) => i % side));
    return Uint8Array.from({ length: size * size }, (_, i) => {
      const [y, x] = [rows[Math.floor(i / size)], columns[i % size]];
      const [y0, x0] = [Math.floor(y), Math.floor(x)];
      const [y1, x1] = [Math.ceil(y), Math.ceil(x)];
      const above = image[y0 * side + x0] * (x0 + 1 - x) + image[y0 * side + x1] * (x - x0);
      const below = image[y1 * side + x0] * (x0 + 1 - x) + image[y1 * side + x1] * (x - x0);
      return Math.round(above * (y0 + 1 - y) + below * (y - y0));
    });
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

  return { decoded, load, logits, maps, mixed, probabilities, stretched };
})();
