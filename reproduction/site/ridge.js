// @ts-check
// compatkit.alignment.ridge in the page: linear regression of new embeddings on old ones, with the penalty that errs
// least on every fifth row. Fast enough to be solved at each drag: rows are taken four at a time, which saves most of
// reading and writing.

/**
 * @typedef {{ rows: number, width: number, data: Float64Array }} Table row by row
 * @typedef {{ from: Float64Array, to: Float64Array, weight: Float64Array }} Affine x -> to + (x - from) weight
 */

const compatkitRidge = (() => {
  "use strict";

  const PENALTIES = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]; // in units of the mean variance of the old embeddings

  /** @param {number} rows */
  const inFours = (rows) => 4 * Math.ceil(rows / 4);

  /**
   * to += a, b, c and d times four rows of x that follow one another, on `count` columns.
   * @param {Float64Array} to @param {number} at @param {number} count
   * @param {Float64Array} x @param {number} first @param {number} width
   * @param {number} a @param {number} b @param {number} c @param {number} d
   */
  function add(to, at, count, x, first, width, a, b, c, d) {
    for (let j = 0, k = first; j < count; j++, k++) {
      to[at + j] += a * x[k] + b * x[k + width] + c * x[k + 2 * width] + d * x[k + 3 * width];
    }
  }

  /** Old and new side by side around their means, for some rows, with rows of zeros to the next four. @param {Table} old @param {Table} fresh @param {Float64Array} mean @param {number[]} rows */
  function centred(old, fresh, mean, rows) {
    const width = old.width + fresh.width;
    const data = new Float64Array(inFours(rows.length) * width);
    rows.forEach((row, i) => {
      for (let j = 0; j < old.width; j++) data[i * width + j] = old.data[row * old.width + j] - mean[j];
      for (let j = 0, at = old.width; at < width; j++, at++) {
        data[i * width + at] = fresh.data[row * fresh.width + j] - mean[at];
      }
    });
    return data;
  }

  /** Adds the products of the p old columns with all columns; of those with old ones the half at the right. @param {Float64Array} sums @param {Float64Array} x @param {number} p @param {number} width */
  function multiply(sums, x, p, width) {
    for (let at = 0; at < x.length; at += 4 * width) {
      for (let i = 0; i < p; i++) {
        const [b, c, d] = [x[at + i + width], x[at + i + 2 * width], x[at + i + 3 * width]];
        add(sums, i * width + i, width - i, x, at + i, width, x[at + i], b, c, d);
      }
    }
  }

  /** The weights (p, q) of one penalty, by Cholesky's decomposition. @param {Float64Array} sums @param {number} p @param {number} q @param {number} penalty */
  function solved(sums, p, q, penalty) {
    const width = p + q;
    let scale = 0;
    for (let i = 0; i < p; i++) scale += sums[i * width + i] / p;
    const upper = sums.slice();
    for (let i = 0; i < p; i++) {
      const at = i * width;
      upper[at + i] += penalty * Math.max(scale, 1e-30);
      for (let k = 0; k < i; k += 4) {
        const row = (/** @type {number} */ j) => (k + j < i ? -upper[(k + j) * width + i] : 0);
        add(upper, at + i, width - i, upper, k * width + i, width, row(0), row(1), row(2), row(3));
      }
      const root = Math.sqrt(Math.max(upper[at + i], 1e-300));
      for (let j = i; j < width; j++) upper[at + j] /= root;
    }
    const weight = new Float64Array(inFours(p) * q);
    for (let i = p - 1; i >= 0; i--) {
      const at = i * width;
      for (let j = 0; j < q; j++) weight[i * q + j] = upper[at + p + j];
      for (let k = i - (i % 4); k < p; k += 4) {
        const row = (/** @type {number} */ j) => (k + j > i && k + j < p ? -upper[at + k + j] : 0);
        add(weight, i * q, q, weight, k * q, q, row(0), row(1), row(2), row(3));
      }
      for (let j = 0; j < q; j++) weight[i * q + j] /= upper[at + i];
    }
    return weight;
  }

  /** @param {Table} x @param {Affine} map @returns {Table} */
  function applied(x, { from, to, weight }) {
    const [p, q] = [x.width, to.length];
    const data = new Float64Array(x.rows * q);
    for (let row = 0; row < x.rows; row++) {
      data.set(to, row * q);
      for (let k = 0; k < p; k += 4) {
        const off = (/** @type {number} */ i) => (i < p ? x.data[row * p + i] - from[i] : 0);
        add(data, row * q, q, weight, k * q, q, off(k), off(k + 1), off(k + 2), off(k + 3));
      }
    }
    return { rows: x.rows, width: q, data };
  }

  /** The means of the columns. @param {Table} x */
  function means({ rows, width, data }) {
    const found = new Float64Array(width);
    for (let row = 0; row < rows; row++) for (let j = 0; j < width; j++) found[j] += data[row * width + j] / rows;
    return found;
  }

  /** @param {Table} x @param {number[]} rows @returns {Table} */
  function taken({ width, data }, rows) {
    const found = new Float64Array(rows.length * width);
    rows.forEach((row, i) => found.set(data.subarray(row * width, (row + 1) * width), i * width));
    return { rows: rows.length, width, data: found };
  }

  /** @param {Table} old @param {Table} fresh of the same items @returns {Affine} */
  function ridge(old, fresh) {
    const [p, q, n] = [old.width, fresh.width, old.rows];
    const width = p + q;
    const all = Array.from({ length: n }, (_, row) => row);
    const [fitted, held] = [all.filter((row) => row % 5), all.filter((row) => row % 5 === 0)];
    const mean = Float64Array.of(...means(old), ...means(fresh));

    const whole = new Float64Array(inFours(p) * width);
    const x = centred(old, fresh, mean, fitted);
    multiply(whole, x, p, width);
    const part = whole.slice(); // around the means of all, which are not its own
    const off = means({ rows: fitted.length, width, data: x });
    for (let i = 0; i < p; i++) for (let j = i; j < width; j++) part[i * width + j] -= fitted.length * off[i] * off[j];
    multiply(whole, centred(old, fresh, mean, held), p, width);

    const own = mean.map((value, i) => value + off[i]);
    const [tested, wanted] = [taken(old, held), taken(fresh, held).data];
    /** @param {Float64Array} sums @param {Float64Array} centre @param {number} penalty @returns {Affine} */
    const map = (sums, centre, penalty) => ({
      from: centre.subarray(0, p),
      to: centre.subarray(p),
      weight: solved(sums, p, q, penalty),
    });
    const errors = PENALTIES.map((penalty) => {
      const { data } = applied(tested, map(part, own, penalty));
      return data.reduce((sum, value, i) => sum + (value - wanted[i]) ** 2, 0);
    });
    return map(whole, mean, PENALTIES[errors.indexOf(Math.min(...errors))]);
  }

  return { ridge, applied };
})();
