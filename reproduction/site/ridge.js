// @ts-check
// compatkit.alignment.ridge in the page: linear regression of new embeddings on old ones, with the penalty that errs
// least on every fifth row.

/**
 * @typedef {{ rows: number, width: number, data: Float64Array }} Table row by row
 * @typedef {{ gram: Float64Array, product: Float64Array, from: Float64Array, to: Float64Array }} Moments
 *   covariances of old with old and of old with new, and the means
 */

const compatkitRidge = (() => {
  "use strict";

  const PENALTIES = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]; // in units of the mean variance of the old embeddings

  /** @param {Table} old @param {Table} fresh @param {(row: number) => boolean} taken @returns {Moments} */
  function moments(old, fresh, taken) {
    const [p, q] = [old.width, fresh.width];
    const [from, to] = [new Float64Array(p), new Float64Array(q)];
    const rows = Array.from({ length: old.rows }, (_, row) => row).filter(taken);
    for (const row of rows) {
      for (let i = 0; i < p; i++) from[i] += old.data[row * p + i] / rows.length;
      for (let j = 0; j < q; j++) to[j] += fresh.data[row * q + j] / rows.length;
    }
    const [gram, product] = [new Float64Array(p * p), new Float64Array(p * q)];
    const [x, y] = [new Float64Array(p), new Float64Array(q)];
    for (const row of rows) {
      for (let i = 0; i < p; i++) x[i] = old.data[row * p + i] - from[i];
      for (let j = 0; j < q; j++) y[j] = (fresh.data[row * q + j] - to[j]) / rows.length;
      for (let i = 0; i < p; i++) {
        const value = x[i];
        const scaled = value / rows.length;
        for (let k = 0; k <= i; k++) gram[i * p + k] += scaled * x[k];
        for (let j = 0; j < q; j++) product[i * q + j] += value * y[j];
      }
    }
    return { gram, product, from, to };
  }

  /** The map of one penalty, by Cholesky's decomposition. @param {Moments} known @param {number} penalty */
  function solved({ gram, product, from, to }, penalty) {
    const [p, q] = [from.length, to.length];
    let scale = 0;
    for (let i = 0; i < p; i++) scale += gram[i * p + i] / p;
    const lower = gram.slice();
    for (let i = 0; i < p; i++) lower[i * p + i] += penalty * Math.max(scale, 1e-30);
    for (let i = 0; i < p; i++) {
      for (let k = 0; k <= i; k++) {
        let sum = lower[i * p + k];
        for (let j = 0; j < k; j++) sum -= lower[i * p + j] * lower[k * p + j];
        lower[i * p + k] = i === k ? Math.sqrt(Math.max(sum, 1e-300)) : sum / lower[k * p + k];
      }
    }
    const weight = product.slice();
    for (let i = 0; i < p; i++) {
      for (let k = 0; k < i; k++) for (let j = 0; j < q; j++) weight[i * q + j] -= lower[i * p + k] * weight[k * q + j];
      for (let j = 0; j < q; j++) weight[i * q + j] /= lower[i * p + i];
    }
    for (let i = p - 1; i >= 0; i--) {
      for (let k = i + 1; k < p; k++) {
        for (let j = 0; j < q; j++) weight[i * q + j] -= lower[k * p + i] * weight[k * q + j];
      }
      for (let j = 0; j < q; j++) weight[i * q + j] /= lower[i * p + i];
    }
    const bias = to.slice();
    for (let i = 0; i < p; i++) for (let j = 0; j < q; j++) bias[j] -= from[i] * weight[i * q + j];
    return { weight, bias };
  }

  /** @param {Table} x @param {{weight: Float64Array, bias: Float64Array}} map @returns {Table} */
  function applied(x, { weight, bias }) {
    const q = bias.length;
    const data = new Float64Array(x.rows * q);
    for (let row = 0; row < x.rows; row++) {
      data.set(bias, row * q);
      for (let i = 0; i < x.width; i++) {
        const value = x.data[row * x.width + i];
        for (let j = 0; j < q; j++) data[row * q + j] += value * weight[i * q + j];
      }
    }
    return { rows: x.rows, width: q, data };
  }

  /** Every fifth row, from the first. @param {Table} x @returns {Table} */
  function heldOut({ rows, width, data }) {
    const held = Math.ceil(rows / 5);
    const at = (/** @type {number} */ i) => 5 * Math.floor(i / width) * width + (i % width);
    return { rows: held, width, data: new Float64Array(held * width).map((_, i) => data[at(i)]) };
  }

  /** @param {Table} old @param {Table} fresh of the same items */
  function ridge(old, fresh) {
    const part = moments(old, fresh, (row) => row % 5 !== 0);
    const [tested, wanted] = [heldOut(old), heldOut(fresh).data];
    const errors = PENALTIES.map((penalty) =>
      applied(tested, solved(part, penalty)).data.reduce((sum, value, i) => sum + (value - wanted[i]) ** 2, 0),
    );
    const penalty = PENALTIES[errors.indexOf(Math.min(...errors))];
    return solved(
      moments(old, fresh, () => true),
      penalty,
    );
  }

  return { ridge, applied };
})();
